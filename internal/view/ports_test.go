// SPDX-License-Identifier: Apache-2.0

package view

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"afterfin/internal/advice"
	"afterfin/internal/event"
	"afterfin/internal/owner"
	"afterfin/internal/ports"
	"afterfin/internal/tcp"
	"afterfin/internal/timewait"
)

// somePorts is a report as of a host with a destination that is about to run out, one that has,
// and who binds first.
func somePorts() *Ports {
	source, at := netip.MustParseAddr("10.0.0.5"), time.Hour
	calls := event.Calls{Connects: 3870, TimeWaits: 3870}
	busy := &ports.Destination{
		Source: source, Remote: netip.MustParseAddrPort("10.0.9.3:6379"), Capacity: 28230, Blocked: 2, Used: 23640, At: at,
		ByState:  map[tcp.State]int{tcp.TimeWait: 23592, tcp.Established: 48},
		Reusable: 23253, TooYoung: 300, NoStamp: 39, Frees: make([]time.Duration, 23592),
		Flow: ports.Flow{Calls: calls, While: 10 * time.Second, Peak: 441},
		Owners: []ports.Owner{
			{Owner: event.Owner{PID: 41, Comm: comm("php-fpm")}, Sockets: 47, Calls: calls},
			{Owner: event.Owner{PID: 50, Comm: comm("cron\x1b")}, Sockets: 1},
		},
	}
	for i := range busy.Frees {
		busy.Frees[i] = at + time.Duration(i)*time.Millisecond*2
	}
	full := &ports.Destination{
		Source: source, Remote: netip.MustParseAddrPort("[2001:db8::1]:443"), Capacity: 200, Used: 200, At: at,
		ByState: map[tcp.State]int{tcp.TimeWait: 200}, InEffect: 0, Frees: []time.Duration{at + 5*time.Second, at + time.Minute},
		Flow:   ports.Flow{Calls: event.Calls{Connects: 7, Failures: 1, Failed: 5}, While: 10 * time.Second},
		Owners: []ports.Owner{{Calls: event.Calls{Connects: 7, Failures: 1, Failed: 5}}},
	}
	first := &ports.Destination{Source: source, Bound: true, Capacity: 28000, Used: 3, At: at, ByState: map[tcp.State]int{tcp.CloseWait: 3},
		Flow: ports.Flow{Calls: event.Calls{Connects: 5, Released: 5}, While: 10 * time.Second}}
	return &Ports{
		Took: 10 * time.Second, Unreachable: 2, Wheel: timewait.Wheel{Tick: 4 * time.Millisecond}, Length: time.Minute, Measured: true,
		Processes: map[uint32]*owner.Process{41: {PID: 41, Comm: "php-fpm", Unit: "web.service"}},
		Advice:    []advice.Advice{{Knob: "net.ipv4.tcp_tw_reuse", Where: "this netns", Value: "2", Fact: "a", Would: "help", WouldNot: "hurt"}},
		Spaces: []*ports.Space{
			{
				NetNS: 9, At: at, Rules: ports.Rules{Low: 32768, High: 60999, Reserved: []ports.Span{{First: 40000, Last: 40001}}, ReuseDelay: time.Second, Reuse: 2},
				Destinations: []*ports.Destination{busy, full, first},
				Listeners: []*ports.Listener{
					{Local: netip.MustParseAddrPort("10.0.0.5:8080"), ByState: map[tcp.State]int{tcp.TimeWait: 12}, Refuses: true, Until: at + 42*time.Second},
					{Local: netip.MustParseAddrPort("[::]:9090"), Listening: true, ByState: map[tcp.State]int{tcp.TimeWait: 1, tcp.Established: 2}},
				},
				Conntrack: &ports.Conntrack{Count: 7, TimeWait: 2 * time.Minute},
			},
			{NetNS: 17, Path: "/run/netns/blue"},
		},
	}
}

func TestPortsText(t *testing.T) {
	var b strings.Builder
	if err := WritePorts(&b, somePorts()); err != nil {
		t.Fatal(err)
	}
	const want = `this netns  ports 32768-60999 (28,232, reserved 2)
10.0.0.5 -> 10.0.9.3:6379   used 23,640 of 28,230 (84 %)   TIME_WAIT 23,592   ESTABLISHED 48
  blocked   2 ports of the range are held by others, so that it cannot have them
  fails above 462/s (ports / 61.0 s); now 387/s, peak 441/s: settles at 23,664 of 28,230 ports
  who       php-fpm pid 41 web.service (holds 47, 3,870 connects)   cron? pid 50 (holds 1)
  reuse     tcp_tw_reuse=1 would let connect() take 23,253 now; 300 are younger than 1.00 s; 39 have no TCP timestamp: never
10.0.0.5 -> [2001:db8::1]:443   used 200 of 200 (100 %)   TIME_WAIT 200
  fails above 0.033/s (ports / 61.0 s); now 0.7/s, peak 0.7/s: no port left
  failures  EADDRNOTAVAIL 1 in 10.0 s: unknown 1
  free      the next port in 5.00 s, all that are in TIME_WAIT in 60.0 s
  who       unknown (7 connects)
10.0.0.5 -> anywhere (bind before connect)   used 3 of 28,000 (0.1 %)   CLOSE_WAIT 3
  no connection leaves a TIME_WAIT here: ports are free at once; now 0.5/s, peak 0.5/s: settles at 3 of 28,000 ports
LISTEN :8080 could not be bound again, SO_REUSEADDR does not help: the old socket lacked it:   TIME_WAIT 12   over in 42.0 s
LISTEN :9090 could not be bound again if it ended now, only with SO_REUSEADDR:   ESTABLISHED 2   TIME_WAIT 1
conntrack is active (7 entries): its TIME_WAIT is 2m00s; ports that NAT gives out are not in this forecast
1 other netns in which nobody connects
advice    net.ipv4.tcp_tw_reuse, now 2 (this netns): help; it would not hurt
netns of 2 processes not entered (CAP_SYS_ADMIN, CAP_SYS_PTRACE)
in 10.0 s   lost nothing   a bind() that fails makes no event: not counted
`
	if got := b.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestPortsJSON(t *testing.T) {
	var b strings.Builder
	if err := WritePortsJSON(&b, somePorts(), time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal([]byte(b.String()), &doc); err != nil {
		t.Fatal(err)
	}
	at := func(keys ...any) any {
		var v any = doc
		for _, k := range keys {
			switch k := k.(type) {
			case string:
				v = v.(map[string]any)[k]
			case int:
				v = v.([]any)[k]
			}
		}
		return v
	}
	for _, c := range []struct {
		want any
		at   []any
	}{
		{1e10, []any{"sample_ns"}}, {6e10, []any{"nominal_ns"}}, {true, []any{"nominal_measured"}}, {61.024e9, []any{"time_wait_ns"}},
		{32768.0, []any{"netns", 0, "range", 0}}, {2.0, []any{"netns", 0, "reserved"}}, {1.2e11, []any{"netns", 0, "conntrack", "time_wait_ns"}},
		{nil, []any{"netns", 1, "conntrack"}}, {true, []any{"netns", 0, "own"}}, {1e9, []any{"netns", 0, "tcp_tw_reuse_delay_ns"}},
		{"10.0.9.3:6379", []any{"destinations", 0, "destination"}}, {4590.0, []any{"destinations", 0, "free"}},
		{387.0, []any{"destinations", 0, "rate"}}, {nil, []any{"destinations", 0, "exhausted_in_ns"}}, {23592.0, []any{"destinations", 0, "by_state", "TIME_WAIT"}},
		{0.0, []any{"destinations", 1, "exhausted_in_ns"}}, {1.0, []any{"destinations", 1, "failures"}}, {5e9, []any{"destinations", 1, "next_free_in_ns"}},
		{nil, []any{"destinations", 1, "owners", 0, "pid"}}, {"EADDRNOTAVAIL", []any{"destinations", 1, "owners", 0, "errno"}},
		{"*", []any{"destinations", 2, "destination"}}, {true, []any{"destinations", 2, "bound_first"}}, {nil, []any{"destinations", 2, "sustainable_rate"}},
		{"web.service", []any{"destinations", 0, "owners", 0, "unit"}}, {nil, []any{"destinations", 0, "owners", 1, "errno"}},
		{4.2e10, []any{"listeners", 0, "over_in_ns"}}, {nil, []any{"listeners", 1, "over_in_ns"}}, {true, []any{"listeners", 0, "refuses_reuseaddr"}},
		{"net.ipv4.tcp_tw_reuse", []any{"advice", 0, "knob"}}, {2.0, []any{"unreachable"}}, {0.0, []any{"lost", "lost_ring"}},
	} {
		if got := at(c.at...); got != c.want {
			t.Errorf("%v: %v, want %v", c.at, got, c.want)
		}
	}
	none := &Ports{Wheel: timewait.Wheel{Tick: time.Millisecond}, Spaces: []*ports.Space{{Inferred: true, Destinations: []*ports.Destination{{Capacity: 9}}}}}
	b.Reset()
	if err := WritePortsJSON(&b, none, time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"sample_ns":null`, `"rate":null`, `"connects":null`, `"reuse":null`, `"exhausted_in_ns":null`, `"lost":null`, `"next_free_in_ns":null`, `"owners":[]`, `"listeners":[]`, `"advice":[]`} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%s is not in %s", want, &b)
		}
	}
}

func TestAdviceText(t *testing.T) {
	var b strings.Builder
	r := &Advised{List: somePorts().Advice, Took: time.Second, Unreadable: 2, Unreachable: 1}
	if err := WriteAdvice(&b, r); err != nil {
		t.Fatal(err)
	}
	const want = `net.ipv4.tcp_tw_reuse = 2   this netns
  fact       a
  would      help
  would not  hurt
netns of 1 process not entered (CAP_SYS_ADMIN, CAP_SYS_PTRACE)
descriptors of 2 processes not counted (CAP_SYS_PTRACE)
in 1.00 s   lost nothing
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &b, want)
	}
	b.Reset()
	if err := WriteAdvice(&b, &Advised{}); err != nil || !strings.HasPrefix(b.String(), "nothing was measured that a setting would change\none look") {
		t.Errorf("%v %s", err, &b)
	}
}
