// SPDX-License-Identifier: Apache-2.0

package otlp

import (
	"context"
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
	giveUp    = 10 * time.Minute // on a batch: the collector may refuse what is in it
)

// queue is a log.Processor that never makes its caller wait. A batch is tried again until it is
// taken; what comes meanwhile waits in turn, and is dropped, and counted, if there is no room.
//
// The SDK's own drops the oldest without a count, and its exporter does not try again where nobody listens.
type queue struct {
	exporter sdk.Exporter
	first    time.Duration // firstWait, but in tests
	waiting  chan sdk.Record
	dropped  atomic.Uint64
	ctx      context.Context
	stop     context.CancelFunc
	ended    sync.WaitGroup
}

func newQueue(exporter sdk.Exporter, first time.Duration) *queue {
	q := &queue{exporter: exporter, first: first, waiting: make(chan sdk.Record, queueSize)}
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

// Shutdown is part of log.Processor. What still waits is dropped, and counted.
func (q *queue) Shutdown(ctx context.Context) error {
	q.stop()
	q.ended.Wait()
	return q.exporter.Shutdown(ctx)
}

func (q *queue) work() {
	for {
		select {
		case r := <-q.waiting:
			q.send(q.batch(r))
		case <-q.ctx.Done():
			q.dropped.Add(uint64(len(q.waiting)))
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
	wait := q.first
	for begin := time.Now(); ; wait = min(2*wait, longest) {
		if q.exporter.Export(q.ctx, batch) == nil {
			return
		}
		if time.Since(begin) > giveUp {
			break
		}
		select {
		case <-time.After(wait):
			continue
		case <-q.ctx.Done():
		}
		break
	}
	q.dropped.Add(uint64(len(batch)))
}
