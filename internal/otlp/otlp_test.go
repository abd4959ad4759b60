// SPDX-License-Identifier: Apache-2.0

package otlp

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"afterfin/internal/export"
	"afterfin/internal/leak"
	"afterfin/internal/owner"
	"afterfin/internal/site"
	"afterfin/internal/symbol"
)

// TestEndpoint: what is no URL of a collector is refused, and where nobody listens is not.
func TestEndpoint(t *testing.T) {
	for _, endpoint := range []string{"", "collector", "127.0.0.1:4318", "localhost:4318", "grpc://127.0.0.1:4317", "http://", "http://:4318", "https:///v1", "http://a b", "http://[::1", "unix:///run/x"} {
		if e, err := New(t.Context(), Config{Endpoint: endpoint, Every: never}, prometheus.NewRegistry()); err == nil || !strings.Contains(err.Error(), "no http or https URL") {
			t.Errorf("%q: %v, %v", endpoint, e, err)
		}
	}
	for _, endpoint := range []string{"http://127.0.0.1:1", "https://collector.example", "http://[::1]:4318/otlp/"} {
		e, err := New(t.Context(), Config{Endpoint: endpoint, Every: never}, prometheus.NewRegistry())
		if err != nil {
			t.Errorf("%q: %v", endpoint, err)
			continue
		}
		(&receiver{T: t}).close(e, time.Millisecond)
	}
}

// TestEnvironment: a user may say more of the resource, and better.
func TestEnvironment(t *testing.T) {
	t.Setenv("OTEL_SERVICE_NAME", "sockets")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=staging")
	r := newReceiver(t)
	r.up(takes)
	e := r.export(Config{}, prometheus.NewRegistry())
	e.Tell(numbered(0, 1))
	r.records(1)
	r.close(e, patience)
	about := values(r.resource.Attributes)
	if about["service.name"] != "sockets" || about["deployment.environment.name"] != "staging" || about["service.version"] != "v1.2.3" {
		t.Errorf("resource %v", about)
	}
}

// TestRecords: what is said of each finding.
func TestRecords(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 4, 1, 12, 0, 0, 12345, time.UTC)
	frames := &site.Site{Frames: []symbol.Frame{
		{Function: "connect", Module: "/usr/lib/libc.so.6", Quality: symbol.Symbol},
		{Function: "billing.(*Client).Get", File: "/src/client.go", Line: 88, Module: "/app", Quality: symbol.Line},
	}}
	old := leak.Leak{Socket: &leak.Socket{}, Verdict: leak.EOFRead, Age: leak.Age{Min: 90 * time.Second, Max: 90 * time.Second, Quality: leak.Exact}}
	group := &leak.Group{
		Process: &owner.Process{PID: 4121, Comm: "payment-api", Unit: "payment.service"},
		Leaks:   []leak.Leak{old, old}, Dead: make([]leak.Dead, 3), Places: []leak.Place{{Site: frames, Count: 2}},
	}
	id := strings.Repeat("ab", 32)
	pod := &leak.Group{
		Process: &owner.Process{PID: 7, Comm: "a\xffb", Container: owner.Container{ID: id, Name: "web", Pod: "web-6c", Namespace: "shop"}},
		Leaks:   []leak.Leak{{Socket: &leak.Socket{}, Verdict: leak.EOFUnread}},
	}
	docker := &leak.Group{Process: &owner.Process{PID: 8, Comm: "php-fpm", Container: owner.Container{ID: id, Name: "php"}},
		Dead: make([]leak.Dead, 1), Places: []leak.Place{{Site: &site.Site{Frames: []symbol.Frame{{Module: "/app", Offset: 5}}}}}}

	type attributes = map[string]any
	of := attributes{"process.pid": int64(4121), "process.executable.name": "payment-api", "afterfin.unit": "payment.service",
		"afterfin.verdict": "eof_read", "afterfin.sockets": int64(2), "afterfin.dead_fds": int64(3), "afterfin.age": 90.0, "afterfin.age.quality": "exact",
		"code.function.name": "billing.(*Client).Get", "code.file.path": "/src/client.go", "code.line.number": int64(88)}
	soon := attributes{"afterfin.exhausted_in": 960.0}
	for k, v := range of {
		soon[k] = v
	}
	for name, c := range map[string]struct {
		found       export.Finding
		event, body string
		want        attributes
	}{
		"leak": {export.Finding{Kind: export.LeakFound, Group: group}, "afterfin.leak",
			"payment-api[4121] leaks 2 sockets in CLOSE_WAIT and 3 dead descriptors", of},
		"in a pod, with a name that is no text": {export.Finding{Kind: export.LeakFound, Group: pod}, "afterfin.leak",
			"a\uFFFDb[7] leaks 1 sockets in CLOSE_WAIT and 0 dead descriptors",
			attributes{"process.pid": int64(7), "process.executable.name": "a\uFFFDb", "container.id": id, "k8s.container.name": "web", "k8s.pod.name": "web-6c",
				"k8s.namespace.name": "shop", "afterfin.verdict": "eof_unread", "afterfin.sockets": int64(1), "afterfin.dead_fds": int64(0)}},
		"in a container, made nobody knows where": {export.Finding{Kind: export.LeakFound, Group: docker}, "afterfin.leak",
			"php-fpm[8] leaks 0 sockets in CLOSE_WAIT and 1 dead descriptors",
			attributes{"process.pid": int64(8), "process.executable.name": "php-fpm", "container.id": id, "container.name": "php",
				"afterfin.verdict": "dead_fd", "afterfin.sockets": int64(0), "afterfin.dead_fds": int64(1)}},
		"descriptors": {export.Finding{Kind: export.NoDescriptors, Group: group, In: 16 * time.Minute}, "afterfin.forecast.descriptors",
			"payment-api[4121] runs out of descriptors in 960 s", soon},
		"ports": {export.Finding{Kind: export.NoPorts, NetNS: 5, Source: netip.MustParseAddr("10.0.0.5"), Destination: netip.MustParseAddrPort("10.0.9.3:6379"), In: 90 * time.Second},
			"afterfin.forecast.ports", "ports from 10.0.0.5 to 10.0.9.3:6379 run out in 90 s",
			attributes{"afterfin.netns": int64(5), "network.local.address": "10.0.0.5", "network.peer.address": "10.0.9.3", "network.peer.port": int64(6379), "afterfin.exhausted_in": 90.0}},
		"ports, bound": {export.Finding{Kind: export.NoPorts, NetNS: 5, Source: netip.MustParseAddr("10.0.0.5"), In: 90 * time.Second},
			"afterfin.forecast.ports", "ports from 10.0.0.5 to wherever it connects to after bind() run out in 90 s",
			attributes{"afterfin.netns": int64(5), "network.local.address": "10.0.0.5", "afterfin.exhausted_in": 90.0}},
		"overflow": {export.Finding{Kind: export.Overflow, NetNS: 5, Count: 12}, "afterfin.overflow",
			"12 sockets got no TIME_WAIT: tcp_max_tw_buckets or memory is used up", attributes{"afterfin.netns": int64(5), "afterfin.sockets": int64(12)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newReceiver(t)
			r.up(takes)
			e := r.export(Config{}, prometheus.NewRegistry())
			c.found.At = at
			e.Tell([]export.Finding{c.found})
			r.close(e, patience)
			dropped(t, e, 0)
			taken := r.records(1)
			got := taken[0]
			if len(taken) != 1 || got.EventName != c.event || got.Body.GetStringValue() != c.body || got.TimeUnixNano != uint64(at.UnixNano()) || got.SeverityText != "WARN" {
				t.Errorf("got %v\nwant %s, %q", taken, c.event, c.body)
			}
			if found := values(got.Attributes); !reflect.DeepEqual(found, c.want) {
				t.Errorf(" got %v\nwant %v", found, c.want)
			}
			if about := values(r.resource.Attributes); about["service.name"] != "afterfin" || about["host.name"] == nil {
				t.Errorf("resource %v", about)
			}
		})
	}
}
