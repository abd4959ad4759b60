//go:build collector

// SPDX-License-Identifier: Apache-2.0

package programs

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	collectorBuilder  = "go.opentelemetry.io/collector/cmd/builder@v0.158.0"
	collectorManifest = "testdata/collector-builder.yaml"
	collectorConfig   = "../../deploy/otel/collector.yml"
)

// collectorBuilt is a Collector of exactly what the manifest says, from the user's cache.
func collectorBuilt(t *testing.T) string {
	t.Helper()
	manifest, err := os.ReadFile(collectorManifest)
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(cache, "afterfin", "otelcol", fmt.Sprintf("%x", sha256.Sum256(manifest))[:12])
	if _, err := os.Stat(path); err == nil {
		return path
	}
	note("building an OpenTelemetry Collector: some minutes")
	if err := os.RemoveAll(filepath.Dir(path)); err != nil { // those of other manifests
		t.Fatal(err)
	}
	full, err := filepath.Abs(collectorManifest)
	if err != nil {
		t.Fatal(err)
	}
	if err := runGo(built, "run", collectorBuilder, "--config="+full); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	made, err := os.ReadFile(filepath.Join(built, "collector", "otelcol"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".part", made, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".part", path); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestCollectorConfig: the Collector takes the configuration that is for users.
func TestCollectorConfig(t *testing.T) {
	if out, err := exec.Command(collectorBuilt(t), "validate", "--config="+collectorConfig).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// collector is one that writes what it gets to a file, another one each time it starts.
type collector struct {
	*testing.T
	path, dir, at string
	starts        int
	end           func() // at once, with what it has not written
}

// start starts it, with what users have but where it listens and what becomes of it.
func (c *collector) start() {
	c.Helper()
	c.starts++
	config := filepath.Join(c.dir, "config.yml")
	write(c.T, config, fmt.Sprintf(`
receivers: {otlp: {protocols: {http: {endpoint: "%s"}}}}
exporters: {file: {path: "%s", flush_interval: 100ms}}
service:
  telemetry: {metrics: {level: none}}
  pipelines:
    metrics: {exporters: [file]}
    logs: {exporters: [file]}
`, c.at, c.file(c.starts)))
	lines, cmd, ended := launch(c.T, c.path, "--config="+collectorConfig, "--config="+config)
	var over bool
	c.end = func() {
		if !over {
			over = true
			cmd.Process.Kill()
			<-ended
		}
	}
	c.Cleanup(c.end)
	said(c.T, lines, regexp.MustCompile(`(Everything is ready)`))
}

func (c *collector) file(start int) string {
	return filepath.Join(c.dir, fmt.Sprintf("got-%d.json", start))
}

// got is what it wrote since a start.
type got struct {
	leaks     map[int]int     // records by pid
	waiting   map[string]bool // values of the count of connections in CLOSE_WAIT
	transmits int             // pushes of metrics
}

type keyValues []struct {
	Key   string
	Value struct{ IntValue, StringValue string }
}

func (k keyValues) get(key string) string {
	for _, each := range k {
		if each.Key == key {
			return each.Value.IntValue + each.Value.StringValue
		}
	}
	return ""
}

// line is one of the file, which is OTLP's JSON.
type line struct {
	ResourceLogs []struct {
		Resource  struct{ Attributes keyValues }
		ScopeLogs []struct {
			LogRecords []struct {
				EventName  string
				Attributes keyValues
			}
		}
	}
	ResourceMetrics []struct {
		Resource     struct{ Attributes keyValues }
		ScopeMetrics []struct {
			Metrics []struct {
				Name string
				Sum  struct {
					DataPoints []struct {
						Attributes keyValues
						AsDouble   float64
					}
				}
			}
		}
	}
}

func (c *collector) got(start int) got {
	c.Helper()
	raw, err := os.ReadFile(c.file(start))
	if err != nil {
		c.Fatal(err)
	}
	g := got{leaks: make(map[int]int), waiting: make(map[string]bool)}
	for text := range strings.Lines(string(raw)) {
		var l line
		if !strings.HasSuffix(text, "\n") {
			break // it is about to be written
		}
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			c.Fatalf("%v: %s", err, text)
		}
		g.add(c.T, &l)
	}
	return g
}

func (g *got) add(t *testing.T, l *line) {
	t.Helper()
	for _, r := range l.ResourceLogs {
		of(t, r.Resource.Attributes)
		for _, s := range r.ScopeLogs {
			for _, record := range s.LogRecords {
				if record.EventName != "afterfin.leak" {
					continue
				}
				pid, err := strconv.Atoi(record.Attributes.get("process.pid"))
				if err != nil || record.Attributes.get("process.executable.name") != "leaky-c" || record.Attributes.get("afterfin.verdict") != "eof_unread" {
					t.Errorf("a record of %+v", record)
				}
				g.leaks[pid]++
			}
		}
	}
	for _, r := range l.ResourceMetrics {
		of(t, r.Resource.Attributes)
		g.transmits++
		for _, s := range r.ScopeMetrics {
			for _, m := range s.Metrics {
				if m.Name != "system.network.connection.count" {
					continue
				}
				for _, p := range m.Sum.DataPoints {
					if p.Attributes.get("network.connection.state") == "close_wait" {
						g.waiting[fmt.Sprint(p.AsDouble)] = true
					}
				}
			}
		}
	}
}

func of(t *testing.T, resource keyValues) {
	t.Helper()
	host, _ := os.Hostname()
	if resource.get("service.name") != "afterfin" || resource.get("host.name") != host {
		t.Errorf("from %v", resource)
	}
}

// valueOf gives one metric that has no labels.
func valueOf(t *testing.T, at, name string) float64 {
	t.Helper()
	raw := []byte(scrape(t, at))
	m := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindSubmatch(raw)
	if m == nil {
		t.Fatalf("no %s: %s", name, raw)
	}
	v, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// eventually asks until it is so.
func eventually(t *testing.T, what string, within time.Duration, ok func() bool) {
	t.Helper()
	for begin := time.Now(); !ok(); time.Sleep(50 * time.Millisecond) { // it writes when it likes
		if time.Since(begin) > within {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// outage is for how long there is no Collector, and recovery how long afterfin may then take:
// half a minute between two attempts.
const outage, recovery = time.Minute, 45 * time.Second

// TestCollector: what serve pushes is what a real Collector gets, and no record of a leak is lost
// while there is none.
func TestCollector(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{T: t, path: collectorBuilt(t), dir: t.TempDir(), at: l.Addr().String()}
	l.Close()
	c.start()
	ns := newNetNS(t)
	port := closer(t, ns)
	lines := running(t, filepath.Join(built, "afterfin"), "serve", "--netns", ns.Path(), "--web.listen-address", "127.0.0.1:0", "--recorder", "",
		"--look-every", "1s", "--older-than", "0s", "--otlp.endpoint", "http://"+c.at, "--otlp.interval", "1s")
	at := said(t, lines, regexp.MustCompile(`^metrics at (\S+)$`))

	const each = 3
	began := make(map[int]bool)
	// leak is a process that leaks for as long as it takes to see it, and whatever else.
	leak := func(and func(pid int)) {
		t.Run("leak", func(t *testing.T) {
			p := start(t, ns, filepath.Join(built, "leaky-c"), port, strconv.Itoa(each))
			p.holds(1)
			began[p.pid] = true
			eventually(t, "seen", patience/2, func() bool { return valueOf(t, at, "afterfin_close_wait_sockets") == each })
			and(p.pid)
		})
		eventually(t, "over", patience/2, func() bool { return valueOf(t, at, "afterfin_close_wait_sockets") == 0 })
	}
	leak(func(pid int) {
		eventually(t, "a record and a metric arrive", patience/2, func() bool {
			g := c.got(1)
			return g.leaks[pid] == 1 && g.waiting[fmt.Sprint(each)]
		})
	})

	c.end()
	down := time.Now()
	for time.Since(down) < outage {
		leak(func(int) {})
	}
	failed := valueOf(t, at, "afterfin_otlp_failed_pushes_total")
	if most := outage.Seconds(); failed < most/2 || failed > 2*most {
		t.Errorf("%v pushes of metrics failed in %v", failed, outage)
	}
	c.start()
	lasted, up := time.Since(down), time.Now()
	leak(func(int) {})
	arrived := func() (n int) {
		for _, g := range []got{c.got(1), c.got(2)} {
			n += len(g.leaks)
		}
		return n
	}
	dropped := func() int { return int(valueOf(t, at, "afterfin_otlp_dropped_records_total")) }
	eventually(t, "all are there or counted", recovery, func() bool { return arrived()+dropped() >= len(began) })
	took := time.Since(up)

	before, after := c.got(1), c.got(2)
	for pid := range began {
		if n := before.leaks[pid] + after.leaks[pid]; n > 1 || n == 0 && dropped() == 0 {
			t.Errorf("%d records of %d", n, pid)
		}
	}
	if n := arrived(); n+dropped() != len(began) || dropped() != 0 {
		t.Errorf("%d of %d leaks arrived, %d are counted as dropped", n, len(began), dropped())
	}
	if !after.waiting["0"] || after.transmits == 0 {
		t.Errorf("metrics after the outage: %+v", after)
	}
	t.Logf("%d leaks, %d of them before and %d in and after an outage of %v: %d records arrived, the last %v after the Collector was back; %d dropped; %v pushes of metrics failed",
		len(began), len(before.leaks), len(after.leaks), lasted.Round(time.Second), arrived(), took.Round(100*time.Millisecond), dropped(), failed)
}
