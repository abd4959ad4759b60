// SPDX-License-Identifier: Apache-2.0

package programs

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/event"
	"afterfin/internal/lab"
	"afterfin/internal/sockdiag"
	"afterfin/internal/tcp"
)

const rules = "../../deploy/prometheus/afterfin.rules.yml"

// TestRules: promtool takes the rules, and their tests pass.
func TestRules(t *testing.T) {
	for _, args := range [][]string{{"check", "rules", rules}, {"test", "rules", "../../deploy/prometheus/afterfin.rules_test.yml"}} {
		if out, err := exec.Command(installed["promtool"], args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v: %s", args, err, out)
		}
	}
}

// running starts a program that ends when it is told to, and gives what it says on stderr.
func running(t *testing.T, path string, args ...string) *bufio.Scanner {
	t.Helper()
	lines, cmd, ended := launch(t, path, args...)
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		if err := <-ended; err != nil {
			t.Errorf("%v: %v", cmd, err)
		}
	})
	return lines
}

// launch starts a program that is ended by the caller, or when this process comes to no good end.
func launch(t *testing.T, path string, args ...string) (lines *bufio.Scanner, cmd *exec.Cmd, ended chan error) {
	t.Helper()
	cmd = exec.Command(path, args...)
	cmd.Env = serverEnv
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	stderr, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stderr.Close() })
	cmd.Stderr = in
	started, ended := make(chan error), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the kernel watches the thread that starts it
		err := cmd.Start()
		in.Close()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	return bufio.NewScanner(stderr), cmd, ended
}

// said waits for a line, and gives its part. What comes after it is dropped.
func said(t *testing.T, lines *bufio.Scanner, line *regexp.Regexp) string {
	t.Helper()
	var all []string
	for lines.Scan() {
		if m := line.FindStringSubmatch(lines.Text()); m != nil {
			go func() {
				for lines.Scan() {
				}
			}()
			return m[1]
		}
		all = append(all, lines.Text())
	}
	t.Fatalf("it never said %v: %s", line, strings.Join(all, "\n"))
	return ""
}

// engine is Debian's Prometheus, scraping every second.
type engine struct {
	*testing.T
	at string
}

func startEngine(t *testing.T, target string) *engine {
	t.Helper()
	dir := t.TempDir()
	text, err := os.ReadFile(rules)
	if err != nil {
		t.Fatal(err)
	}
	// The same rules, in the time that a test has.
	quick := strings.NewReplacer("offset 10m", "offset 4s", "for: 5m", "for: 2s").Replace(string(text))
	if quick == string(text) {
		t.Fatal("the rules are not as they were")
	}
	for name, text := range map[string]string{"rules.yml": quick, "prometheus.yml": fmt.Sprintf(`
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [rules.yml]
scrape_configs:
  - job_name: afterfin
    static_configs: [{targets: ["%s"]}]
`, target)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	l.Close()
	lines := running(t, installed["prometheus"], "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+at, "--log.level=info")
	said(t, lines, regexp.MustCompile(`(Server is ready)`))
	return &engine{t, "http://" + at + "/api/v1/"}
}

// ask gives what the API says as data.
func (e *engine) ask(path string, into any) {
	e.Helper()
	r, err := http.Get(e.at + path)
	if err != nil {
		e.Fatal(err)
	}
	defer r.Body.Close()
	answer := struct{ Data any }{into}
	if err := json.NewDecoder(r.Body).Decode(&answer); err != nil || r.StatusCode != http.StatusOK {
		e.Fatalf("%s: %s, %v", path, r.Status, err)
	}
}

// value of an expression that has one; NaN if it has none yet.
func (e *engine) value(expression string) float64 {
	e.Helper()
	var data struct{ Result []struct{ Value [2]any } }
	e.ask("query?query="+url.QueryEscape(expression), &data)
	if len(data.Result) == 0 {
		return math.NaN()
	}
	v, err := strconv.ParseFloat(data.Result[0].Value[1].(string), 64)
	if err != nil {
		e.Fatal(err)
	}
	return v
}

// firing tells whether an alert of this name does.
func (e *engine) firing(name string) bool {
	e.Helper()
	var data struct {
		Alerts []struct {
			Labels map[string]string
			State  string
		}
	}
	e.ask("alerts", &data)
	for _, a := range data.Alerts {
		if a.Labels["alertname"] == name && a.State == "firing" {
			return true
		}
	}
	return false
}

// until asks until it is so.
func (e *engine) until(what string, within time.Duration, ok func() bool) {
	e.Helper()
	for begin := time.Now(); !ok(); time.Sleep(100 * time.Millisecond) { // it scrapes every second
		if time.Since(begin) > within {
			e.Fatalf("not within %v: %s", within, what)
		}
	}
}

// TestPrometheus: what Debian's Prometheus says of a host under load is the truth.
func TestPrometheus(t *testing.T) {
	t.Parallel()
	ns := newNetNS(t)
	if err := ns.SetSysctl("net.ipv4.tcp_tw_reuse", "0"); err != nil { // each lasts as long as it can
		t.Fatal(err)
	}
	lines := running(t, filepath.Join(built, "afterfin"), "serve", "--netns", ns.Path(), "--web.listen-address", "127.0.0.1:0", "--recorder", "",
		"--look-every", "1s", "--older-than", "1s")
	at := said(t, lines, regexp.MustCompile(`^metrics at (\S+)$`))
	e := startEngine(t, at)
	e.until("scraped", time.Minute, func() bool { return e.value("afterfin_look_timestamp_seconds") > 0 })
	lengths := make(chan []time.Duration, 1)
	go func() { lengths <- load(t, ns) }()
	e.leak(ns)
	truth := <-lengths
	if t.Failed() {
		return
	}
	n := float64(len(truth))
	expired := `{end="expired"}`
	e.until("all TIME_WAIT over", time.Minute, func() bool { return e.value(`afterfin_time_wait_duration_seconds_count`+expired) >= n })
	p99 := truth[int(math.Ceil(0.99*n))-1].Seconds()
	got := e.value(`histogram_quantile(0.99, afterfin_time_wait_duration_seconds_bucket` + expired + `)`)
	// A classic bucket is half a second wide there, and a quantile somewhere in it.
	if math.Abs(got-p99) > 0.52 {
		t.Errorf("p99 of TIME_WAIT is %.3f s, Prometheus says %.3f", p99, got)
	}
	t.Logf("p99 of %v TIME_WAIT: measured %.3f s, Prometheus says %.3f", n, p99, got)
	for expression, want := range map[string]float64{
		`afterfin_transitions_total{from="FIN_WAIT2",to="TIME_WAIT"}`: n,
		`afterfin_time_wait_ended_total{cause="expired"}`:             n,
		`sum(afterfin_lost_total)`:                                    0,
	} {
		if got := e.value(expression); got != want {
			t.Errorf("%s is %v, want %v", expression, got, want)
		}
	}
	promtoolTakes(t, at)
}

// promtoolTakes: it finds nothing to say of the metrics.
func promtoolTakes(t *testing.T, at string) {
	t.Helper()
	cmd := exec.Command(installed["promtool"], "check", "metrics")
	cmd.Stdin = strings.NewReader(scrape(t, at))
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v: %s", err, out)
	}
}

// connections of the load, and how fast they come.
const (
	loadConnections = 1000
	loadGap         = 4 * time.Millisecond
	loadLook        = 10 * time.Millisecond // how exactly an end is known
)

// load makes TIME_WAIT and watches each of them end: how long they lasted, sorted.
func load(t *testing.T, ns *lab.NetNS) (lengths []time.Duration) {
	err := ns.Do(func() error {
		c, err := lab.NewCloser()
		if err != nil {
			return err
		}
		defer c.Close()
		began := make(map[uint16]time.Duration)
		for next := time.Now(); len(began) < loadConnections; next = next.Add(loadGap) {
			time.Sleep(time.Until(next)) // a rate
			client, server, err := c.Pair()
			if err != nil {
				return err
			}
			name, err := unix.Getsockname(client)
			if err != nil {
				return err
			}
			if err := lab.CloseBoth(client, server); err != nil {
				return err
			}
			began[uint16(name.(*unix.SockaddrInet4).Port)] = lab.Mono()
		}
		for len(began) > 0 {
			there := make(map[uint16]bool)
			at := lab.Mono()
			if err := sockdiag.Dump(1<<tcp.TimeWait|1<<tcp.FinWait2, func(e *event.Existing) { there[e.Tuple.Local.Port()] = true }); err != nil {
				return err
			}
			for port, since := range began {
				if !there[port] {
					lengths = append(lengths, at-since)
					delete(began, port)
				}
			}
			time.Sleep(loadLook)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	slices.Sort(lengths)
	return lengths
}

// leak leaks more and more, mends it, and waits for what Prometheus makes of it.
func (e *engine) leak(ns *lab.NetNS) {
	e.Helper()
	var c *lab.Closer
	if err := ns.Do(func() (err error) { c, err = lab.NewCloser(); return err }); err != nil {
		e.Fatal(err)
	}
	defer c.Close()
	var held []int
	defer func() {
		for _, fd := range held {
			unix.Close(fd)
		}
	}()
	e.until("the leak fires", time.Minute, func() bool {
		err := ns.Do(func() error {
			client, server, err := c.Pair()
			if err == nil {
				held = append(held, client)
				err = unix.Close(server)
			}
			return err
		})
		if err != nil {
			e.Fatal(err)
		}
		return e.firing("AfterfinLeakGrowing")
	})
	e.until("the count is right", time.Minute, func() bool { return e.value(`sum(afterfin_leaked_sockets)`) == float64(len(held)) })
	if got := e.value(`afterfin_close_wait_sockets`); got != float64(len(held)) {
		e.Errorf("%v in CLOSE_WAIT, want %d", got, len(held))
	}
	for _, fd := range held { // by RST: what they leave is in no count
		if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
			e.Fatal(err)
		}
		unix.Close(fd)
	}
	held = nil
	e.until("the leak clears", time.Minute, func() bool {
		return !e.firing("AfterfinLeakGrowing") && e.value(`afterfin_close_wait_sockets`) == 0
	})
}

// scrape gives the metrics as they are told.
func scrape(t *testing.T, at string) string {
	t.Helper()
	r, err := http.Get("http://" + at + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
