// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"afterfin/internal/lab"
)

const (
	threads   = 2
	loadPorts = 8
)

// load is how many connections each thread makes, and the transitions of all:
// CLOSE→SYN_SENT→ESTABLISHED→FIN_WAIT1→FIN_WAIT2→TIME_WAIT on one side,
// LISTEN→SYN_RECV→ESTABLISHED→CLOSE_WAIT→LAST_ACK→CLOSE on the other,
// CLOSE→LISTEN→CLOSE of each listener. Without what ends TIME_WAIT: for some it is
// another connect(), for most nothing while the test runs.
func load(t *testing.T) (perThread, transitions int) {
	t.Helper()
	perThread = knob(t, loadConnections, 100_000)
	return perThread, threads * (perThread*10 + loadPorts*2)
}

// TestFlatOut makes 200,000 connections as fast as two threads can and wants
// each of their transitions told or counted as lost, to the last one.
func TestFlatOut(t *testing.T) {
	sum, told := flatOut(t, newNetNS(t))
	_, transitions := load(t)
	if got := told + sum.LostRing + sum.Recursion; got != uint64(transitions) {
		t.Errorf("%d rows told or counted as lost, want %d", got, transitions)
	}
}

// TestFlatOutDelayedACK is the same with delayed ACKs: then some transitions run
// in timers that interrupt our own program, and the kernel skips it. They must be
// told by the second program, and none by both. Timers run on top of any process,
// and there are kernels that run no BPF program, nor count it, on top of some: so
// what is missing is only logged.
func TestFlatOutDelayedACK(t *testing.T) {
	ns := newNetNS(t)
	if err := ns.SetQuickACK(false); err != nil {
		t.Fatal(err)
	}
	sum, told := flatOut(t, ns)
	_, transitions := load(t)
	got := told + sum.LostRing + sum.Recursion
	if got > uint64(transitions) {
		t.Errorf("%d rows told or counted as lost, of %d", got, transitions)
	}
	t.Logf("%d not told and not counted", transitions-int(got))
}

// TestFlatOutBesideAnother: another afterfin that starts meanwhile looks at all descriptors, and makes memory for
// sockets just when we do. The kernel then refuses one of the two; no owner is lost by it, and no row is told twice.
func TestFlatOutBesideAnother(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	var others sync.WaitGroup
	defer others.Wait()
	defer cancel()
	others.Go(func() {
		for ctx.Err() == nil {
			var stderr strings.Builder
			e := env{ctx: ctx, stdout: io.Discard, stderr: &stderr, getenv: os.Getenv, types: types, abort: func() { panic("stdout is blocked") }}
			if code := run(e, []string{"watch", "--duration", "10ms"}); code != exitOK {
				t.Errorf("the other one exits %d: %s", code, &stderr)
				return
			}
		}
	})
	sum, told := flatOut(t, newNetNS(t))
	_, transitions := load(t)
	if got := told + sum.LostRing + sum.Recursion; got != uint64(transitions) {
		t.Errorf("%d rows told or counted as lost, want %d", got, transitions)
	}
}

// flatOut gives the summary, and how many rows were told without the ends of TIME_WAIT.
func flatOut(t *testing.T, ns *lab.NetNS) (sum row, told uint64) {
	perThread, transitions := load(t)
	sink := &lineCounter{}
	sink.more = sync.NewCond(&sink.mu)
	w := startWatchTo(t, sink, "-o", "json", "--netns", ns.Path())
	connect(t, ns, perThread)
	sink.wait(transitions) // the very last ones may still run in a softirq
	w.cancel()
	sum = w.summary(t, &sink.last)
	told = sum.Transitions - uint64(sink.ends)
	t.Logf("%d rows, %d ends of TIME_WAIT, lost: ring %d, recursion %d, accept %d, map %d, read %d", told, sink.ends, sum.LostRing, sum.Recursion, sum.LostAccept, sum.LostMap, sum.LostRead)
	if sum.LostRing != 0 {
		t.Errorf("%d rows lost for want of room in the ring", sum.LostRing)
	}
	if sum.LostMap+sum.LostRead+sum.Evicted != 0 {
		t.Errorf("lost map %d, read %d, evicted %d", sum.LostMap, sum.LostRead, sum.Evicted)
	}
	if sum.LostAccept != 0 && os.Getenv(preempts) == "" {
		t.Errorf("%d accepts not seen", sum.LostAccept)
	}
	return sum, told
}

// connect has each thread make so many connections in ns.
func connect(t *testing.T, ns *lab.NetNS, perThread int) {
	t.Helper()
	var wg sync.WaitGroup
	for range threads {
		wg.Go(func() {
			if err := ns.Do(func() error { return connections(perThread, loadPorts) }); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// summary waits for the end; last then holds the last line of stdout.
func (w *watcher) summary(t *testing.T, last *[]byte) (sum row) {
	t.Helper()
	if code := <-w.code; code != exitOK {
		t.Fatalf("exit %d: %s", code, w.stderr)
	}
	if err := json.Unmarshal(*last, &sum); err != nil || sum.Event != "summary" {
		t.Fatalf("the last line is %q (%v)", *last, err)
	}
	return sum
}

// lineCounter is stdout of a reader that keeps up: it keeps the last line only.
type lineCounter struct {
	mu    sync.Mutex
	more  *sync.Cond
	lines int // without ends
	ends  int // of TIME_WAIT
	last  []byte
}

func (c *lineCounter) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ends := bytes.Count(p, []byte(`"from":"TIME_WAIT"`))
	c.ends += ends
	c.lines += bytes.Count(p, []byte{'\n'}) - ends
	whole := bytes.TrimSuffix(p, []byte{'\n'}) // JSON is written in whole lines
	c.last = append(c.last[:0], whole[bytes.LastIndexByte(whole, '\n')+1:]...)
	c.more.Broadcast()
	return len(p), nil
}

// wait returns once n lines came, or a second after the last one: then some were lost.
func (c *lineCounter) wait(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.lines < n {
		before := c.lines
		timer := time.AfterFunc(time.Second, c.more.Broadcast)
		c.more.Wait()
		timer.Stop()
		if c.lines == before {
			return
		}
	}
}

// connections opens and closes n of them one after the other, spread over some
// ports so that the TIME_WAIT they leave does not use up all local ones.
func connections(n, ports int) error {
	var closers []*lab.Closer
	for range ports {
		c, err := lab.NewCloser()
		if err != nil {
			return err
		}
		defer c.Close()
		closers = append(closers, c)
	}
	for i := range n {
		if _, err := closers[i%ports].Leave(); err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
	}
	return nil
}
