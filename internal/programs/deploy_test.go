// SPDX-License-Identifier: Apache-2.0

package programs

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

const (
	daemonSet = "../../deploy/kubernetes/daemonset.yaml"
	dashboard = "../../deploy/grafana/afterfin.json"
)

// TestDeployParses: all that is YAML there is YAML, and says nothing twice.
func TestDeployParses(t *testing.T) {
	n := 0
	err := filepath.WalkDir("../../deploy", func(path string, d fs.DirEntry, err error) error {
		if ext := filepath.Ext(path); err != nil || ext != ".yml" && ext != ".yaml" {
			return err
		}
		n++
		for _, document := range strings.Split(readText(t, path), "\n---\n") {
			var v any
			if err := yaml.UnmarshalStrict([]byte(document), &v); err != nil || v == nil {
				t.Errorf("%s: %v, %v", path, v, err)
			}
		}
		return nil
	})
	if err != nil || n < 3 {
		t.Errorf("%d files, %v", n, err)
	}
}

// TestDaemonSet: Kubernetes knows each of its fields, and they say what must hold.
func TestDaemonSet(t *testing.T) {
	var set apps.DaemonSet
	text, err := yaml.YAMLToJSONStrict([]byte(readText(t, daemonSet)))
	if err != nil {
		t.Fatal(err)
	}
	if unknown, err := kjson.UnmarshalStrict(text, &set); err != nil || unknown != nil { // as the API server does: hostPid is unknown
		t.Fatal(err, unknown)
	}
	must := func(ok bool, what string) {
		t.Helper()
		if !ok {
			t.Errorf("not so: %s", what)
		}
	}
	must(set.APIVersion == "apps/v1" && set.Kind == "DaemonSet", "it is a DaemonSet")
	must(set.Spec.Selector != nil && len(set.Spec.Selector.MatchLabels) > 0 && len(set.Spec.Selector.MatchExpressions) == 0, "the selector selects by labels")
	for k, v := range set.Spec.Selector.MatchLabels {
		must(set.Spec.Template.Labels[k] == v, "the pods have the label "+k)
	}
	pod := &set.Spec.Template.Spec
	must(pod.HostPID, "it sees the node's processes")
	must(pod.HostNetwork, "it listens in the node's network")
	must(len(pod.Containers) == 1 && len(pod.InitContainers) == 0, "there is one container")
	c := &pod.Containers[0]

	at := ""
	for i := range c.Args {
		for _, e := range c.Env {
			if from := e.ValueFrom; from != nil && from.FieldRef != nil && from.FieldRef.FieldPath == "status.hostIP" {
				c.Args[i] = strings.ReplaceAll(c.Args[i], "$("+e.Name+")", "192.0.2.1")
			}
		}
		if address, is := strings.CutPrefix(c.Args[i], "--web.listen-address="); is {
			at = address
		}
	}
	host, port, err := net.SplitHostPort(at)
	must(err == nil && host == "192.0.2.1", "it listens on the node's own address: "+at)
	must(len(c.Args) > 0 && c.Args[0] == "serve" && len(c.Command) == 0, "it runs serve")
	if out, err := exec.Command(filepath.Join(built, "afterfin"), append(c.Args, "--help")...).CombinedOutput(); err != nil {
		t.Errorf("its arguments %q: %v: %s", c.Args, err, out)
	}
	must(set.Spec.Template.Annotations["prometheus.io/port"] == port, "Prometheus scrapes that port")
	for path, probe := range map[string]*core.Probe{"/readyz": c.ReadinessProbe, "/healthz": c.LivenessProbe} {
		if probe == nil || probe.HTTPGet == nil {
			t.Errorf("no probe of %s", path)
			continue
		}
		get := probe.HTTPGet
		must(get.Path == path && get.Host == "" && get.Scheme == "", "the probe asks "+path+" of the node's address") // the pod's is the node's
		probed := get.Port.String()
		for _, p := range c.Ports {
			if p.Name == probed {
				probed = strconv.Itoa(int(p.ContainerPort))
			}
		}
		must(probed == port, path+" is asked at the port "+port)
	}

	s := c.SecurityContext
	is := func(b *bool, want bool) bool { return b != nil && *b == want }
	must(is(s.Privileged, false), "it is not privileged")
	must(is(s.ReadOnlyRootFilesystem, true), "its root is read-only")
	must(s.RunAsUser != nil && *s.RunAsUser == 0, "it is root, or else its capabilities are lost")
	// https://github.com/kubernetes/kubernetes/issues/119568
	must(!is(s.AllowPrivilegeEscalation, false), "allowPrivilegeEscalation is not false beside SYS_ADMIN")
	must(slices.Equal(s.Capabilities.Drop, []core.Capability{"ALL"}), "it drops all capabilities")
	var added []string
	for _, name := range s.Capabilities.Add {
		added = append(added, "CAP_"+string(name))
	}
	want := capabilities(t)
	slices.Sort(added)
	slices.Sort(want)
	must(slices.Equal(added, want), "it has the capabilities that the unit has")

	mounted := make(map[string]bool)
	for _, m := range c.VolumeMounts {
		for _, v := range pod.Volumes {
			if v.Name == m.Name && v.HostPath != nil && v.HostPath.Path == m.MountPath {
				mounted[m.MountPath] = !m.ReadOnly
			}
		}
	}
	must(mounted["/run/afterfin"], "the flight recorder's folder is the node's, and may be written to")
	_, there := mounted["/run/netns"]
	must(there, "named network namespaces are there")
}

// told are the metrics that the source defines: their labels by the names that Prometheus has.
func told(t *testing.T) map[string][]string {
	t.Helper()
	sources, err := filepath.Glob("../export/*.go")
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, path := range append(sources, "../../cmd/afterfin/serve.go") {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	literal := func(e ast.Expr) string {
		if l, is := e.(*ast.BasicLit); is && l.Kind == token.STRING {
			if s, err := strconv.Unquote(l.Value); err == nil {
				return s
			}
		}
		return ""
	}
	inspect := func(visit func(ast.Node)) {
		for _, f := range files {
			ast.Inspect(f, func(n ast.Node) bool { visit(n); return true })
		}
	}
	values := make(map[string]ast.Expr) // of variables, by name
	inspect(func(n ast.Node) {
		if spec, is := n.(*ast.ValueSpec); is && len(spec.Names) == len(spec.Values) {
			for i, name := range spec.Names {
				values[name.Name] = spec.Values[i]
			}
		}
	})
	called := func(e ast.Node, name string) *ast.CallExpr {
		if c, is := e.(*ast.CallExpr); is {
			switch f := c.Fun.(type) {
			case *ast.Ident:
				if f.Name == name {
					return c
				}
			case *ast.SelectorExpr:
				if f.Sel.Name == name {
					return c
				}
			}
		}
		return nil
	}
	metric := func(c *ast.CallExpr) string {
		first := c.Args[0]
		if id, is := first.(*ast.Ident); is {
			first = values[id.Name]
		}
		return "afterfin_" + literal(first)
	}
	found := make(map[string][]string)
	inspect(func(n ast.Node) {
		if kv, is := n.(*ast.KeyValueExpr); is {
			if key, is := kv.Key.(*ast.Ident); is && key.Name == "Name" && strings.HasPrefix(literal(kv.Value), "afterfin_") {
				found[literal(kv.Value)] = nil
			}
		}
		c := called(n, "family")
		if c == nil {
			return
		}
		labels := []string{"job", "instance"}
		for _, arg := range c.Args[2:] {
			if label := literal(arg); label != "" {
				labels = append(labels, label)
			} else { // the ports', by rank unless --ports.destinations says otherwise
				labels = append(labels, "rank")
			}
		}
		found[metric(c)] = labels
	})
	inspect(func(n ast.Node) {
		for _, kind := range []string{"newKernelHistogram", "MustNewConstHistogram"} {
			c := called(n, kind)
			if c == nil {
				continue
			}
			name := metric(values[c.Args[0].(*ast.Ident).Name].(*ast.CallExpr))
			labels := found[name]
			found[name+"_bucket"], found[name+"_count"], found[name+"_sum"] = append(slices.Clone(labels), "le"), labels, labels
			delete(found, name) // a native histogram has it, and not every Prometheus takes those
		}
	})
	return found
}

var (
	named    = regexp.MustCompile(`\b(afterfin_\w+)(\{[^}]*\})?`)
	matchers = regexp.MustCompile(`(\w+)(?:=~|!~|!=|=)"`)
	grouped  = regexp.MustCompile(`\b(?:by|without|on|ignoring) \(([^)]*)\)`)
)

// check: what a query names is told, with the labels that it asks for.
func check(t *testing.T, query string, told map[string][]string) (names int) {
	t.Helper()
	all := []string{"le"}
	for _, m := range named.FindAllStringSubmatch(query, -1) {
		names++
		labels, there := told[m[1]]
		if !there {
			t.Errorf("serve tells no %s: %s", m[1], query)
			continue
		}
		for _, l := range matchers.FindAllStringSubmatch(m[2], -1) {
			if !slices.Contains(labels, l[1]) {
				t.Errorf("%s has no label %s: %s", m[1], l[1], query)
			}
		}
		all = append(all, labels...)
	}
	for _, m := range grouped.FindAllStringSubmatch(query, -1) {
		for label := range strings.SplitSeq(m[1], ",") {
			if !slices.Contains(all, strings.TrimSpace(label)) {
				t.Errorf("nothing there has a label %s: %s", label, query)
			}
		}
	}
	return names
}

// TestNames: rules and dashboard ask for metrics that there are.
func TestNames(t *testing.T) {
	told := told(t)
	for line := range strings.Lines(served(t)) { // the other way round: the source was understood
		if name := regexp.MustCompile(`^afterfin_\w+`).FindString(line); name != "" {
			if _, there := told[name]; !there {
				t.Errorf("serve tells %s, and the source does not", name)
			}
		}
	}
	var file struct {
		Groups []struct{ Rules []struct{ Expr string } }
	}
	if err := yaml.Unmarshal([]byte(readText(t, rules)), &file); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, group := range file.Groups {
		for _, rule := range group.Rules {
			n += check(t, rule.Expr, told)
		}
	}
	if n == 0 {
		t.Error("the rules ask for nothing")
	}
	n = 0
	var visit func(any)
	visit = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, v := range v {
				visit(v)
			}
		case []any:
			for _, v := range v {
				visit(v)
			}
		case string:
			n += check(t, v, told)
		}
	}
	var all any
	if err := json.Unmarshal([]byte(readText(t, dashboard)), &all); err != nil {
		t.Fatal(err)
	}
	visit(all)
	if n == 0 {
		t.Error("the dashboard asks for nothing")
	}
}

// TestDashboard: each panel says what it shows, in which unit, and lies on no other.
func TestDashboard(t *testing.T) {
	type panel struct {
		ID      int
		Title   string
		GridPos struct{ X, Y, W, H int }
		Targets []struct{ Expr string }

		FieldConfig struct{ Defaults struct{ Unit string } }
	}
	var board struct{ Panels []panel }
	if err := json.Unmarshal([]byte(readText(t, dashboard)), &board); err != nil {
		t.Fatal(err)
	}
	if len(board.Panels) == 0 {
		t.Error("no panels")
	}
	for i, p := range board.Panels {
		at := p.GridPos
		if p.ID == 0 || p.Title == "" || p.FieldConfig.Defaults.Unit == "" || len(p.Targets) == 0 {
			t.Errorf("a panel without id, title, unit or query: %+v", p)
		}
		if at.W <= 0 || at.H <= 0 || at.X < 0 || at.Y < 0 || at.X+at.W > 24 {
			t.Errorf("%s does not lie on the grid: %+v", p.Title, at)
		}
		for _, query := range p.Targets {
			if query.Expr == "" {
				t.Errorf("%s has an empty query", p.Title)
			}
		}
		for _, q := range board.Panels[:i] {
			if q.ID == p.ID {
				t.Errorf("%s and %s have one id", q.Title, p.Title)
			}
			if other := q.GridPos; at.X < other.X+other.W && other.X < at.X+at.W && at.Y < other.Y+other.H && other.Y < at.Y+at.H {
				t.Errorf("%s lies on %s", p.Title, q.Title)
			}
		}
	}
}
