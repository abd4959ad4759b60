// SPDX-License-Identifier: Apache-2.0

package otlp

import (
	"net/http"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"

	"afterfin/internal/export"
)

// numbered findings tell which they are.
func numbered(from, to int) []export.Finding {
	var found []export.Finding
	for i := from; i < to; i++ {
		found = append(found, export.Finding{Kind: export.Overflow, Count: uint64(i)})
	}
	return found
}

// inOrder: these are all that were told from one number to another.
func inOrder(t *testing.T, taken []*logs.LogRecord, from, to int) {
	t.Helper()
	if len(taken) != to-from {
		t.Errorf("%d records, want %d", len(taken), to-from)
	}
	for i, r := range taken {
		if got := values(r.Attributes)["afterfin.sockets"]; got != int64(from+i) {
			t.Fatalf("record %d is number %v, want %d", i, got, from+i)
		}
	}
}

func dropped(t *testing.T, e *Exporter, want uint64) {
	t.Helper()
	if got := e.Dropped(); got != want {
		t.Errorf("%d dropped, want %d", got, want)
	}
}

// quick is before a record is tried again.
const quick = 5 * time.Millisecond

// never is a time that does not come in a test.
const never = time.Hour

// TestDown: what is told while nobody listens, and while the collector is not ready, arrives when
// it is: each once, in order.
func TestDown(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	e := r.export(Config{FirstWait: quick}, prometheus.NewRegistry())
	e.Tell(numbered(0, 1000))
	r.up(answer{status: http.StatusServiceUnavailable})
	r.attempt()
	r.attempt()
	e.Tell(numbered(1000, 1500))
	for _, status := range []int{http.StatusTooManyRequests, http.StatusBadGateway, http.StatusGatewayTimeout} {
		r.set(answer{status: status})
		r.attempt() // may be of before
		r.attempt()
	}
	r.set(takes)
	r.records(1500)
	e.Tell(numbered(1500, 1600))
	inOrder(t, r.records(1600), 0, 1600)
	r.close(e, patience)
	inOrder(t, r.records(0), 0, 1600)
	dropped(t, e, 0)
}

// TestFull: the queue has room for queueSize; exactly what is more is dropped.
func TestFull(t *testing.T) {
	t.Parallel()
	const surplus = 321
	r := newReceiver(t)
	r.up(answer{status: http.StatusServiceUnavailable})
	e := r.export(Config{FirstWait: quick}, prometheus.NewRegistry())
	e.Tell(numbered(0, 1))
	r.attempt() // this one waits no more
	begin := time.Now()
	e.Tell(numbered(1, 1+queueSize+surplus))
	if took := time.Since(begin); took > time.Second {
		t.Errorf("to tell took %v", took)
	}
	dropped(t, e, surplus)
	r.set(takes)
	inOrder(t, r.records(1+queueSize), 0, 1+queueSize)
	r.close(e, patience)
	inOrder(t, r.records(0), 0, 1+queueSize)
	dropped(t, e, surplus)
}

// TestHangs: a collector that does not answer holds up nobody who tells, and the end no longer than it may.
func TestHangs(t *testing.T) {
	t.Parallel()
	const n, within = 3000, 200 * time.Millisecond
	r := newReceiver(t)
	r.up(answer{hang: true})
	e := r.export(Config{}, prometheus.NewRegistry())
	begin := time.Now()
	e.Tell(numbered(0, n))
	if took := time.Since(begin); took > time.Second {
		t.Errorf("to tell took %v", took)
	}
	r.attempt()
	if took := r.close(e, within); took > within+2*time.Second {
		t.Errorf("to close took %v, of %v", took, within)
	}
	dropped(t, e, n)
}

// TestCloseDown: nobody listens, so there is nothing to wait for.
func TestCloseDown(t *testing.T) {
	t.Parallel()
	const n = 1000
	r := newReceiver(t)
	e := r.export(Config{FirstWait: never}, prometheus.NewRegistry())
	e.Tell(numbered(0, n))
	if took := r.close(e, patience); took > patience/4 {
		t.Errorf("to close took %v", took)
	}
	dropped(t, e, n)
}

// TestCloseUp: what waits for its next attempt has it at the end.
func TestCloseUp(t *testing.T) {
	t.Parallel()
	const n = 1000
	r := newReceiver(t)
	r.up(answer{status: http.StatusServiceUnavailable})
	e := r.export(Config{FirstWait: never}, prometheus.NewRegistry())
	e.Tell(numbered(0, n))
	r.attempt()
	r.set(takes)
	r.close(e, patience)
	inOrder(t, r.records(0), 0, n)
	dropped(t, e, 0)
}

// TestRefused: what the collector answers for good is not sent again. It is counted as far as it
// was not taken, and what comes after it arrives.
func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		does answer
		lost uint64 // of two batches
	}{
		"bad request": {answer{status: http.StatusBadRequest}, 11},
		"not found":   {answer{status: http.StatusNotFound}, 11},
		"no password": {answer{status: http.StatusUnauthorized}, 11},
		"too large":   {answer{status: http.StatusRequestEntityTooLarge}, 11},
		"broken":      {answer{status: http.StatusInternalServerError}, 11},
		"some of it":  {answer{status: http.StatusOK, rejected: 1}, 2},
		"a warning":   {answer{status: http.StatusOK, warns: true}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newReceiver(t)
			r.up(answer{status: http.StatusServiceUnavailable})
			e := r.export(Config{FirstWait: quick}, prometheus.NewRegistry())
			e.Tell(numbered(0, 1))
			r.attempt()
			e.Tell(numbered(1, 11)) // these wait together
			r.set(c.does)
			for r.attempt() != 10 {
			}
			r.set(takes)
			e.Tell(numbered(11, 12))
			if n := r.attempt(); n != 1 {
				t.Errorf("%d records came again", n)
			}
			r.close(e, patience)
			dropped(t, e, c.lost)
			taken := r.records(0)
			if got := uint64(len(taken)); got != 12-c.lost {
				t.Errorf("%d arrived, want %d", got, 12-c.lost)
			}
			inOrder(t, taken[len(taken)-1:], 11, 12)
		})
	}
}
