// SPDX-License-Identifier: Apache-2.0

package otlp

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	collogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	colmetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/protobuf/proto"
)

// patience is for what should take no time.
const patience = 20 * time.Second

// answers of a receiver, by which it is told what to do.
type answer struct {
	status   int
	hang     bool  // until the one who asks has gone
	rejected int64 // with 200: so many records of each batch
	warns    bool  // with 200: takes all, and has something to say
}

var takes = answer{status: http.StatusOK}

// receiver is a collector: what OTLP by HTTP asks of one.
type receiver struct {
	*testing.T
	address string
	server  *httptest.Server

	tried  chan int // records in each request with some, before it is answered
	pushed chan *metrics.ResourceMetrics

	mu       sync.Mutex
	does     answer
	taken    []*logs.LogRecord
	resource *resource.Resource // of the last records
}

// newReceiver makes one that does not listen yet. The address is one where nothing else will in
// the meantime.
func newReceiver(t *testing.T) *receiver {
	t.Helper()
	l, err := net.Listen("tcp", "127.43.18.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return &receiver{T: t, address: l.Addr().String(), tried: make(chan int, 1<<16), pushed: make(chan *metrics.ResourceMetrics, 1<<16), does: takes}
}

// up makes it listen.
func (r *receiver) up(does answer) {
	r.Helper()
	r.set(does)
	l, err := net.Listen("tcp", r.address)
	if err != nil {
		r.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/logs", r.takeLogs)
	mux.HandleFunc("POST /v1/metrics", r.takeMetrics)
	r.server = &httptest.Server{Listener: l, Config: &http.Server{Handler: mux}}
	r.server.Start()
	r.Cleanup(r.server.Close)
}

func (r *receiver) set(does answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.does = does
}

func (r *receiver) answer() answer {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.does
}

// read reads a request. false: it is answered.
func (r *receiver) read(w http.ResponseWriter, request *http.Request, into proto.Message) bool {
	raw, err := io.ReadAll(request.Body)
	if err == nil {
		err = proto.Unmarshal(raw, into)
	}
	if err != nil || request.Header.Get("Content-Type") != "application/x-protobuf" {
		r.Errorf("%s: %v, %v", request.URL, err, request.Header)
		w.WriteHeader(http.StatusBadRequest)
		return false
	}
	return true
}

// write answers. false: it does not take it.
func (r *receiver) write(w http.ResponseWriter, request *http.Request, does answer, says proto.Message) bool {
	if does.hang {
		<-request.Context().Done()
		return false
	}
	if does.status != http.StatusOK {
		w.WriteHeader(does.status)
		return false
	}
	raw, err := proto.Marshal(says)
	if err != nil {
		r.Error(err)
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	w.Write(raw)
	return true
}

func (r *receiver) takeLogs(w http.ResponseWriter, request *http.Request) {
	var asked collogs.ExportLogsServiceRequest
	if !r.read(w, request, &asked) {
		return
	}
	var all []*logs.LogRecord
	var from *resource.Resource
	for _, res := range asked.ResourceLogs {
		from = res.Resource
		for _, scope := range res.ScopeLogs {
			all = append(all, scope.LogRecords...)
		}
	}
	does := r.answer()
	says := &collogs.ExportLogsServiceResponse{}
	if does.rejected > 0 || does.warns {
		says.PartialSuccess = &collogs.ExportLogsPartialSuccess{RejectedLogRecords: does.rejected, ErrorMessage: "not those"}
	}
	if does.status == http.StatusOK {
		r.mu.Lock()
		r.taken, r.resource = append(r.taken, all[does.rejected:]...), from
		r.mu.Unlock()
	}
	r.tried <- len(all)
	r.write(w, request, does, says)
}

func (r *receiver) takeMetrics(w http.ResponseWriter, request *http.Request) {
	var asked colmetrics.ExportMetricsServiceRequest
	if r.read(w, request, &asked) && r.write(w, request, r.answer(), &colmetrics.ExportMetricsServiceResponse{}) {
		for _, m := range asked.ResourceMetrics {
			r.pushed <- m
		}
	}
}

// attempt waits for the next one, and gives how many records it has.
func (r *receiver) attempt() int {
	r.Helper()
	return wait(r.T, r.tried)
}

func wait[V any](t *testing.T, c <-chan V) V {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("it never came")
		panic("")
	}
}

// records waits until so many are taken, and gives all.
func (r *receiver) records(n int) []*logs.LogRecord {
	r.Helper()
	for {
		r.mu.Lock()
		taken := r.taken
		r.mu.Unlock()
		if len(taken) >= n {
			return taken
		}
		r.attempt()
	}
}

// export begins to push to it.
func (r *receiver) export(cfg Config, from prometheus.Gatherer) *Exporter {
	r.Helper()
	cfg.Endpoint, cfg.Version = "http://"+r.address, "v1.2.3"
	if cfg.Every == 0 {
		cfg.Every = time.Hour
	}
	e, err := New(r.Context(), cfg, from)
	if err != nil {
		r.Fatal(err)
	}
	return e
}

// close closes within some time, and tells how long it took.
func (r *receiver) close(e *Exporter, within time.Duration) time.Duration {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	begin := time.Now()
	e.Close(ctx)
	return time.Since(begin)
}

// values of attributes, by name.
func values(attributes []*common.KeyValue) map[string]any {
	found := make(map[string]any)
	for _, a := range attributes {
		switch v := a.Value.Value.(type) {
		case *common.AnyValue_StringValue:
			found[a.Key] = v.StringValue
		case *common.AnyValue_IntValue:
			found[a.Key] = v.IntValue
		case *common.AnyValue_DoubleValue:
			found[a.Key] = v.DoubleValue
		default:
			found[a.Key] = a.Value
		}
	}
	return found
}
