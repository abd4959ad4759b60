// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"afterfin/internal/lab"
)

// served is serve, run in this process.
type served struct {
	*testing.T
	at, socket string
	cancel     context.CancelFunc
	code       chan int
	stderr     *notes
}

var listening = regexp.MustCompile(`(?m)^metrics at (\S+)$`)

func startServe(t *testing.T, args ...string) *served {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &served{T: t, socket: filepath.Join(t.TempDir(), "recorder.sock"), cancel: cancel, code: make(chan int, 1), stderr: &notes{ready: make(chan struct{})}}
	args = append([]string{"serve", "--web.listen-address", "127.0.0.1:0", "--recorder", s.socket, "--look-every", "1s", "--older-than", "0s"}, args...)
	go func() {
		s.code <- run(env{ctx: ctx, stdout: io.Discard, stderr: s.stderr, getenv: os.Getenv, types: types}, args)
	}()
	select {
	case <-s.stderr.ready:
	case code := <-s.code:
		t.Fatalf("exit %d: %s", code, s.stderr)
	case <-time.After(patience):
		t.Fatalf("not ready: %s", s.stderr)
	}
	t.Cleanup(s.end)
	m := listening.FindStringSubmatch(s.stderr.String())
	if m == nil {
		t.Fatalf("no address: %s", s.stderr)
	}
	s.at = "http://" + m[1]
	return s
}

// end ends it, once.
func (s *served) end() {
	s.Helper()
	if s.cancel == nil {
		return
	}
	s.cancel()
	s.cancel = nil
	if code := <-s.code; code != exitOK {
		s.Errorf("exit %d: %s", code, s.stderr)
	}
}

func (s *served) get(path string) (status int, body string) {
	s.Helper()
	r, err := http.Get(s.at + path)
	if err != nil {
		s.Fatal(err)
	}
	defer r.Body.Close()
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		s.Fatal(err)
	}
	return r.StatusCode, string(raw)
}

// metrics by name and labels, as name{a=b,c=d}; of a histogram how many values it has.
func (s *served) metrics() map[string]float64 {
	s.Helper()
	status, body := s.get("/metrics")
	if status != http.StatusOK {
		s.Fatalf("%d: %s", status, body)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		s.Fatalf("%v: %s", err, body)
	}
	found := make(map[string]float64)
	for name, f := range families {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			key := name
			if labels != nil {
				key += "{" + strings.Join(labels, ",") + "}"
			}
			found[key] = valueOf(m)
		}
	}
	return found
}

func valueOf(m *dto.Metric) float64 {
	switch {
	case m.Histogram != nil:
		return float64(m.Histogram.GetSampleCount())
	case m.Counter != nil:
		return m.Counter.GetValue()
	}
	return m.Gauge.GetValue()
}

// until scrapes until ok.
func (s *served) until(what string, ok func(map[string]float64) bool) map[string]float64 {
	s.Helper()
	for begin := time.Now(); ; time.Sleep(20 * time.Millisecond) { // a scrape is what there is
		m := s.metrics()
		if ok(m) {
			return m
		}
		if time.Since(begin) > patience {
			s.Fatalf("never %s: %v", what, m)
		}
	}
}

// with gives those of one name.
func with(m map[string]float64, name string) map[string]float64 {
	found := make(map[string]float64)
	for k, v := range m {
		if k == name || strings.HasPrefix(k, name+"{") {
			found[strings.TrimPrefix(k, name)] = v
		}
	}
	return found
}

// TestServe: the counts of a netns are exactly what happened in it.
func TestServe(t *testing.T) {
	s := &scene{T: t, begin: lab.Mono(), ns: newNetNS(t), family: families[0], sock: make(map[uint64]*expected)}
	v := startServe(t, "--netns", s.ns.Path())
	const n = 40
	s.must(s.ns.Do(func() error {
		c, err := lab.NewCloser()
		if err != nil {
			return err
		}
		defer c.Close()
		for range n {
			client, server, err := c.Pair()
			if err != nil {
				return err
			}
			if err := lab.CloseBoth(client, server); err != nil {
				return err
			}
		}
		return nil
	}))
	want := make(map[string]float64)
	for _, change := range []string{"CLOSE→SYN_SENT", "SYN_SENT→ESTABLISHED", "ESTABLISHED→FIN_WAIT1", "FIN_WAIT1→FIN_WAIT2", "FIN_WAIT2→TIME_WAIT",
		"LISTEN→SYN_RECV", "SYN_RECV→ESTABLISHED", "ESTABLISHED→CLOSE_WAIT", "CLOSE_WAIT→LAST_ACK", "LAST_ACK→CLOSE"} {
		from, to, _ := strings.Cut(change, "→")
		want[fmt.Sprintf("{from=%s,to=%s}", from, to)] = n
	}
	want["{from=CLOSE,to=LISTEN}"], want["{from=LISTEN,to=CLOSE}"] = 1, 1
	m := v.until("all closed", func(m map[string]float64) bool {
		return m["afterfin_transitions_total{from=LAST_ACK,to=CLOSE}"] == n && m["afterfin_time_wait_sockets"] == n
	})
	if got := with(m, "afterfin_transitions_total"); !reflect.DeepEqual(got, want) {
		t.Errorf("transitions %v, want %v", got, want)
	}
	for name, value := range map[string]float64{
		"afterfin_time_wait_entered_total{side=connect}": n, "afterfin_time_wait_entered_total{side=accept}": 0,
		"afterfin_time_wait_overflows_total": 0, "afterfin_close_wait_sockets": 0, "afterfin_close_wait_age_seconds": 0,
		"afterfin_ports_destinations": 1, "afterfin_ports_destinations_omitted": 0, "afterfin_ports_used{rank=1}": n,
		"afterfin_connect_no_port_total": 0, "afterfin_lost_total{cause=ring}": 0, "afterfin_lost_total{cause=map}": 0,
		"afterfin_lost_total{cause=recursion}": 0,
	} {
		if got, there := m[name]; got != value || !there {
			t.Errorf("%s %v (%v), want %v", name, got, there, value)
		}
	}
	if len(with(m, "afterfin_leaked_sockets"))+len(with(m, "afterfin_dead_fds")) != 0 {
		t.Errorf("something leaks: %v", m)
	}
	for _, path := range []string{"/healthz", "/readyz", "/"} {
		if status, body := v.get(path); status != http.StatusOK {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	_, body := v.get("/metrics")
	problems, err := promlint.New(strings.NewReader(body)).Lint()
	if err != nil || problems != nil {
		t.Errorf("%v %+v", err, problems)
	}
	for line := range strings.Lines(body) {
		if strings.Contains(line, "pid=") || strings.Contains(line, "port=") || strings.HasPrefix(line, "node_") {
			t.Errorf("a label without bounds, or a name of somebody else's: %s", line)
		}
	}
}

// TestServeLeak: a leak is there, with its workload and verdict, and goes away. Those who ask
// the flight recorder know exactly since when, and where it was made.
func TestServeLeak(t *testing.T) {
	s := &scene{T: t, begin: lab.Mono(), ns: newNetNS(t), family: families[0], sock: make(map[uint64]*expected)}
	v := startServe(t, "--netns", s.ns.Path())
	client, srv := s.actor("client"), s.actor("server")
	_, c, a := s.pair(client, srv)
	fin := s.closeWait(client, srv, c, a)
	m := v.until("leaked", func(m map[string]float64) bool { return len(with(m, "afterfin_leaked_sockets")) > 0 })
	for name, value := range map[string]float64{"afterfin_leaked_sockets": 1, "afterfin_leaked_socket_age_seconds": m["afterfin_leaked_socket_age_seconds{workload=client}"]} {
		labels := "{workload=client}"
		if name == "afterfin_leaked_sockets" {
			labels = "{verdict=eof_unread,workload=client}"
		}
		if got := with(m, name); !reflect.DeepEqual(got, map[string]float64{labels: value}) {
			t.Errorf("%s%v, want %s %v", name, got, labels, value)
		}
	}
	if m["afterfin_close_wait_sockets"] != 1 || m["afterfin_close_wait_age_seconds"] != 1 {
		t.Errorf("CLOSE_WAIT: %v", with(m, "afterfin_close_wait_sockets"))
	}

	doc, when := s.leaksBy("--recorder", v.socket)
	want := waiting("eof_unread", client, c, fin)
	want.side = "connect"
	s.leaks(doc, when, want)
	if l := &doc.Leaks[0]; l.Sockets[0].Quality != "exact" || doc.Lost == nil || len(l.Site) == 0 {
		t.Errorf("by the flight recorder: %s, lost %v, site %v", l.Sockets[0].Quality, doc.Lost, l.Site)
	}
	stdout, stderr, code := asNobody(t, nil, "leaks", "-o", "json", "--recorder", v.socket, "--netns", s.ns.Path())
	if code == exitOK && !strings.Contains(stderr, "answers root alone") {
		t.Errorf("another user: exit %d: %s%s", code, stdout, stderr)
	}

	s.step(client.CloseFD(c.fd))
	v.until("mended", func(m map[string]float64) bool {
		return len(with(m, "afterfin_leaked_sockets")) == 0 && m["afterfin_close_wait_sockets"] == 0
	})
	v.end()
	if _, err := os.Stat(v.socket); !os.IsNotExist(err) {
		t.Errorf("the socket stays: %v", err)
	}
}

// TestServePush: a leak that is older than serve is told to a collector, once, and --check tells nothing.
func TestServePush(t *testing.T) {
	s := &scene{T: t, begin: lab.Mono(), ns: newNetNS(t), family: families[0], sock: make(map[uint64]*expected)}
	client, srv := s.actor("client"), s.actor("server")
	_, c, a := s.pair(client, srv)
	s.closeWait(client, srv, c, a)
	records := make(chan string, 100)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if r.URL.Path == "/v1/logs" {
			records <- string(raw)
		}
	}))
	t.Cleanup(collector.Close)
	push := []string{"--netns", s.ns.Path(), "--otlp.endpoint", collector.URL}
	if _, stderr, code := runAs(t, nil, "", append([]string{"serve", "--check", "--older-than", "0s", "--web.listen-address", "127.0.0.1:0"}, push...)...); code != exitOK || len(records) > 0 {
		t.Errorf("exit %d: %s; %d pushes of records", code, stderr, len(records))
	}
	v := startServe(t, push...)
	select {
	case got := <-records:
		if n := strings.Count(got, "leaks 1 sockets in CLOSE_WAIT"); n != 1 {
			t.Errorf("%d records of it: %q", n, got)
		}
	case <-time.After(patience):
		t.Fatal("it was never told")
	}
	first := v.metrics()["afterfin_look_timestamp_seconds"]
	v.until("looked again", func(m map[string]float64) bool { return m["afterfin_look_timestamp_seconds"] > first })
	v.end()
	if len(records) > 0 {
		t.Errorf("told again: %q", <-records)
	}
}

// leaksBy is leaks on the scene's netns, in this process.
func (s *scene) leaksBy(args ...string) (doc leaksDoc, when lab.Step) {
	s.Helper()
	when.Before, when.Ticked = lab.Mono(), lab.Ticked()
	stdout, stderr, code := runAs(s.T, nil, "", append([]string{"leaks", "-o", "json", "--older-than", "0s", "--netns", s.ns.Path()}, args...)...)
	when.After = lab.Mono()
	if err := json.Unmarshal([]byte(stdout), &doc); err != nil || code != exitOK || stderr != "" {
		s.Fatalf("exit %d, %v: %s%s", code, err, stdout, stderr)
	}
	return doc, when
}

// TestServeCheck: it attaches and ends, also beside a serve that listens there.
func TestServeCheck(t *testing.T) {
	v := startServe(t)
	at := strings.TrimPrefix(v.at, "http://")
	stdout, stderr, code := runAs(t, nil, "", "serve", "--check", "--web.listen-address", at, "--recorder", v.socket)
	if code != exitOK || !strings.HasPrefix(stdout, "ok: ") || stderr != "" {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
	}
	for want, args := range map[string][]string{
		"error: --web.listen-address: ":           {"--check", "--web.listen-address", "nowhere:bogus"},
		"error: --web.listen-address: listen tcp": {"--web.listen-address", at},
		"another serve listens there":             {"--web.listen-address", "127.0.0.1:0", "--recorder", v.socket},
	} {
		stdout, stderr, code = runAs(t, nil, "", append([]string{"serve"}, args...)...)
		if code == exitOK || stdout != "" || !strings.Contains(stderr, want) || strings.Contains("\n"+stderr, "\nready ") {
			t.Errorf("%v exits %d: %s%s", args, code, stdout, stderr)
		}
	}
	if m := v.metrics(); m["afterfin_close_wait_age_seconds"] < 0 {
		t.Errorf("the one that was there is gone: %v", m)
	}
}
