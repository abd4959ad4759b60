// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"afterfin/internal/tracer"
)

// patience is how long a test waits for something before it says that it never
// came: long, for emulated machines.
const patience = 40 * time.Second

// types of the kernel: parsing them once for all tracers of these tests spares
// an emulated machine half a second for each.
var types = tracer.NewTypes()

// row is a line of watch -o json, read as a script would.
type row struct {
	Event      string
	Mono       int64 `json:"mono_ns"`
	NetNS      uint32
	Cookie     uint64
	Inode      uint64
	Family     string
	Local      string
	Remote     string
	From       string
	To         string
	InState    *int64 `json:"in_state_ns"`
	InStateMin *int64 `json:"in_state_min_ns"`
	Owner      struct {
		PID   int
		Start int64 `json:"start_ns"`
		Comm  string
		How   string
	}
	Accepted    *bool
	Side        *string
	SkErr       *string `json:"sk_err"`
	Cause       *string
	Restarts    *int
	Transitions uint64
	LostRing    uint64 `json:"lost_ring"`
	Recursion   uint64 `json:"lost_recursion"`
	LostAccept  uint64 `json:"lost_accept"`
	LostMap     uint64 `json:"lost_map"`
	LostRead    uint64 `json:"lost_read"`
	Evicted     uint64
}

func (r *row) change() string { return r.From + "→" + r.To }

// watcher is afterfin watch -o json, run in this process.
type watcher struct {
	name   string
	cancel context.CancelFunc
	code   chan int
	read   chan struct{} // closed when stdout was read to its end
	stderr *notes

	mu   sync.Mutex
	more *sync.Cond
	rows []row
	over bool     // all was read
	bad  []string // lines that are not JSON
}

// startWatch waits until afterfin says ready; the test's end stops it.
func startWatch(t *testing.T, args ...string) *watcher {
	t.Helper()
	out, in := io.Pipe()
	w := startWatchTo(t, in, append([]string{"-o", "json"}, args...)...)
	w.name = strings.Join(args, " ")
	go w.readAll(out)
	t.Cleanup(func() { w.stop(t) })
	return w
}

// startWatchTo is startWatch with the caller's stdout, closed at the end if it
// can be. The caller stops it.
func startWatchTo(t *testing.T, stdout io.Writer, args ...string) *watcher {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &watcher{name: strings.Join(args, " "), cancel: cancel, code: make(chan int, 1), read: make(chan struct{}), stderr: &notes{ready: make(chan struct{})}}
	w.more = sync.NewCond(&w.mu)
	go func() {
		code := run(env{ctx: ctx, stdout: stdout, stderr: w.stderr, getenv: os.Getenv, types: types, abort: func() { panic("stdout is blocked") }}, append([]string{"watch"}, args...))
		if c, ok := stdout.(io.Closer); ok {
			c.Close()
		}
		w.code <- code
	}()
	select {
	case <-w.stderr.ready:
	case code := <-w.code:
		t.Fatalf("watch %s exits %d before it is ready: %s", w.name, code, w.stderr)
	case <-time.After(patience):
		t.Fatalf("watch %s is not ready: %s", w.name, w.stderr)
	}
	return w
}

func (w *watcher) readAll(out io.Reader) {
	defer close(w.read)
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.over = true
		w.more.Broadcast()
	}()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var r row
		err := json.Unmarshal(lines.Bytes(), &r)
		w.mu.Lock()
		if err != nil {
			w.bad = append(w.bad, lines.Text())
		}
		w.rows = append(w.rows, r)
		w.more.Broadcast()
		w.mu.Unlock()
	}
}

// stop ends the stream as Ctrl-C does, once, and gives the summary.
func (w *watcher) stop(t *testing.T) row {
	t.Helper()
	w.cancel()
	code, ok := <-w.code
	if ok {
		close(w.code)
		if code != exitOK {
			t.Errorf("watch %s exits %d: %s", w.name, code, w.stderr)
		}
	}
	<-w.read
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, line := range w.bad {
		t.Errorf("watch %s: not JSON: %s", w.name, line)
	}
	last := w.rows[len(w.rows)-1]
	if last.Event != "summary" {
		t.Errorf("watch %s: the last line is %q, not the summary", w.name, last.Event)
	}
	return last
}

// wait blocks until the transitions that match are n, or the stream is over, and
// gives them (all of them, if there are more) in time order.
func (w *watcher) wait(t *testing.T, n int, match func(*row) bool) []row {
	t.Helper()
	late := time.AfterFunc(patience, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.more.Broadcast()
	})
	defer late.Stop()
	begin := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		var found []row
		for _, r := range w.rows {
			if r.Event == "transition" && match(&r) {
				found = append(found, r)
			}
		}
		if len(found) >= n || w.over || time.Since(begin) > patience {
			slices.SortStableFunc(found, func(a, b row) int { return int(a.Mono - b.Mono) })
			return found
		}
		w.more.Wait()
	}
}

// hooked tells whether the ready line names a program.
func (w *watcher) hooked(program string) bool { return strings.Contains(w.stderr.String(), program) }

// notes is stderr: it tells when a line begins with "ready".
type notes struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	ready chan struct{} // closed when a line begins with word
	word  string        // "ready " without
	once  sync.Once
}

func (n *notes) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.buf.Write(p)
	if strings.Contains("\n"+n.buf.String(), "\n"+cmp.Or(n.word, "ready ")) {
		n.once.Do(func() { close(n.ready) })
	}
	return len(p), nil
}

func (n *notes) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.buf.String()
}
