// SPDX-License-Identifier: Apache-2.0

package otlp

import (
	"context"
	"errors"
	"io"
	"net"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/log"
)

const (
	queueSize = 2048 // records that wait, some 2 MB
	batchSize = 256
	firstWait = time.Second
	longest   = 30 * time.Second // between two attempts
)

// queue is a log.Processor that never makes its caller wait. A batch is tried again until it is
// taken or refused for good; what comes meanwhile waits in turn, and is dropped, and counted, if
// there is no room.
//
// The SDK's own drops the oldest without a count, and its exporter does not try again where nobody listens.
type queue struct {
	exporter sdk.Exporter
	first    time.Duration // firstWait, but in tests
	waiting  chan sdk.Record
	dropped  atomic.Uint64
	closing  chan struct{}   // closed: each batch has one more attempt
	ctx      context.Context // of all attempts
	stop     context.CancelFunc
	ended    sync.WaitGroup
}

func newQueue(exporter sdk.Exporter, first time.Duration) *queue {
	q := &queue{exporter: exporter, first: first, waiting: make(chan sdk.Record, queueSize), closing: make(chan struct{})}
	q.ctx, q.stop = context.WithCancel(context.Background())
	q.ended.Go(q.work)
	return q
}

// Enabled is part of log.Processor.
func (q *queue) Enabled(context.Context, sdk.EnabledParameters) bool { return true }

// OnEmit is part of log.Processor.
func (q *queue) OnEmit(_ context.Context, r *sdk.Record) error {
	select {
	case q.waiting <- r.Clone():
	default:
		q.dropped.Add(1)
	}
	return nil
}

// ForceFlush is part of log.Processor. What waits goes in its own time.
func (q *queue) ForceFlush(context.Context) error { return nil }

// Shutdown is part of log.Processor, and called once. What waits is tried once more, within ctx.
// What then still waits is dropped, and counted.
func (q *queue) Shutdown(ctx context.Context) error {
	close(q.closing)
	defer q.stop()
	defer context.AfterFunc(ctx, q.stop)()
	q.ended.Wait()
	return q.exporter.Shutdown(ctx)
}

func (q *queue) work() {
	for {
		select {
		case r := <-q.waiting:
			q.send(q.batch(r))
		case <-q.closing:
			for len(q.waiting) > 0 {
				q.send(q.batch(<-q.waiting))
			}
			return
		}
	}
}

// batch adds what waits, too.
func (q *queue) batch(first sdk.Record) []sdk.Record {
	batch := []sdk.Record{first}
	for len(batch) < batchSize {
		select {
		case r := <-q.waiting:
			batch = append(batch, r)
		default:
			return batch
		}
	}
	return batch
}

func (q *queue) send(batch []sdk.Record) {
	for wait := q.first; ; wait = min(2*wait, longest) {
		last := q.isClosing()
		n, ok := refused(q.exporter.Export(q.ctx, batch), len(batch))
		if !ok && last {
			n, ok = len(batch), true
		}
		if ok {
			q.dropped.Add(uint64(n))
			return
		}
		select {
		case <-time.After(wait):
		case <-q.closing:
		}
	}
}

func (q *queue) isClosing() bool {
	select {
	case <-q.closing:
		return true
	default:
		return false
	}
}

// refused is how many records of a batch the collector will never take. ok is false as long as it
// may yet take all. To send again what it has answered would hold up the others, or make doubles.
func refused(err error, batch int) (n int, ok bool) {
	// The SDK's types for these two are internal to it.
	var later interface { // 429, 502, 503 and 504
		error
		As(any) bool
	}
	var partly interface { // it took the rest
		error
		Is(error) bool
	}
	var network net.Error
	switch {
	case err == nil:
		return 0, true
	case errors.As(err, &later), errors.As(err, &network), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, context.Canceled):
		return 0, false
	case errors.As(err, &partly):
		if v := reflect.ValueOf(partly); v.Kind() == reflect.Struct {
			if rejected := v.FieldByName("RejectedItems"); rejected.CanInt() {
				return int(rejected.Int()), true
			}
		}
	}
	return batch, true
}
