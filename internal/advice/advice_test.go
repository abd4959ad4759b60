// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"afterfin/internal/event"
	"afterfin/internal/ports"
	"afterfin/internal/tcp"
)

// facts lead to every line.
func facts() *Facts {
	d := &ports.Destination{
		Source: netip.MustParseAddr("127.0.0.5"), Remote: netip.MustParseAddrPort("127.0.0.3:6379"),
		Capacity: 200, Used: 190, ByState: map[tcp.State]int{tcp.TimeWait: 165, tcp.FinWait2: 20, tcp.Established: 5},
		Reusable: 100, TooYoung: 25, NoStamp: 40, Frees: make([]time.Duration, 165+20),
	}
	return &Facts{
		Where:     "this netns",
		Rules:     &ports.Rules{Low: 40000, High: 40199, Reuse: 2, ReuseDelay: time.Second},
		Needs:     []Need{{d, ports.Forecast{Rate: 10, Sustainable: 3}}, {&ports.Destination{Bound: true, Capacity: 100, Used: 90}, ports.Forecast{}}},
		Listening: []uint16{8080, 9090}, TimeWaits: 165, Halfway: 20, MaxTimeWaits: 200, FinTimeout: time.Minute,
		Resets: 7, While: 10 * time.Second, Orphans: 3000, MaxOrphans: 4096,
		Queues:    []Queue{{netip.MustParseAddrPort("0.0.0.0:8080"), 130, 128}},
		Somaxconn: 128,
		Files:     []Files{{4121, "payment", 900, 1024}},
	}
}

var knobs = []string{
	"net.ipv4.tcp_tw_reuse", "net.ipv4.tcp_tw_reuse_delay", "net.ipv4.tcp_timestamps", "net.ipv4.tcp_max_tw_buckets", "net.ipv4.tcp_fin_timeout",
	"net.ipv4.tcp_rfc1337", "net.ipv4.tcp_max_orphans", "net.ipv4.ip_local_port_range", "net.core.somaxconn", "RLIMIT_NOFILE",
}

func lines(f *Facts) []string {
	var out []string
	for _, a := range For(f) {
		out = append(out, a.Knob)
	}
	return out
}

func without(knob string) (rest []string) {
	for _, k := range knobs {
		if k != knob {
			rest = append(rest, k)
		}
	}
	return rest
}

// Each line goes when its fact does, and no other one with it.
func TestNoFactNoAdvice(t *testing.T) {
	if got := For(&Facts{}); len(got) != 0 {
		t.Errorf("nothing is known: %+v", got)
	}
	if got := lines(facts()); !reflect.DeepEqual(got, knobs) {
		t.Fatalf("%v", got)
	}
	first := func(f *Facts) *ports.Destination { return f.Needs[0].Destination }
	for _, c := range []struct {
		knob, name string
		remove     func(f *Facts)
	}{
		{"net.ipv4.tcp_tw_reuse", "none could be taken", func(f *Facts) { first(f).Reusable = 0 }},
		{"net.ipv4.tcp_tw_reuse", "they are taken as it is", func(f *Facts) { first(f).InEffect = 100 }},
		{"net.ipv4.tcp_tw_reuse", "it is 1", func(f *Facts) { f.Rules.Reuse = 1 }},
		{"net.ipv4.tcp_tw_reuse_delay", "none is too young", func(f *Facts) { first(f).TooYoung = 0 }},
		{"net.ipv4.tcp_tw_reuse_delay", "the kernel has none", func(f *Facts) { f.Rules.ReuseDelay = -1 }},
		{"net.ipv4.tcp_tw_reuse_delay", "tcp_tw_reuse is off", func(f *Facts) { f.Rules.Reuse = 0 }},
		{"net.ipv4.tcp_tw_reuse_delay", "2 is for loopback only", func(f *Facts) {
			first(f).Source, first(f).Remote = netip.MustParseAddr("10.0.0.5"), netip.MustParseAddrPort("10.0.0.3:6379")
		}},
		{"net.ipv4.tcp_timestamps", "they are on", func(f *Facts) { f.Rules.Timestamps = 1 }},
		{"net.ipv4.tcp_timestamps", "all have one", func(f *Facts) { first(f).NoStamp = 0 }},
		{"net.ipv4.tcp_max_tw_buckets", "there are fewer", func(f *Facts) { f.TimeWaits = 139 }},
		{"net.ipv4.tcp_max_tw_buckets", "there may be more", func(f *Facts) { f.MaxTimeWaits = 199 * 2 }},
		{"net.ipv4.tcp_fin_timeout", "few wait", func(f *Facts) { f.Halfway, first(f).Frees, f.TimeWaits = 19, make([]time.Duration, 165+19), 180 }},
		{"net.ipv4.tcp_fin_timeout", "a process holds them", func(f *Facts) { f.Halfway, first(f).Frees, f.TimeWaits = 0, make([]time.Duration, 165), 185 }},
		{"net.ipv4.tcp_fin_timeout", "it is not known", func(f *Facts) { f.FinTimeout = 0 }},
		{"net.ipv4.tcp_rfc1337", "no RST", func(f *Facts) { f.Resets = 0 }},
		{"net.ipv4.tcp_rfc1337", "it is on", func(f *Facts) { f.RFC1337 = 1 }},
		{"net.ipv4.tcp_max_orphans", "there are fewer", func(f *Facts) { f.Orphans = 2047 }},
		{"net.ipv4.ip_local_port_range", "it is as wide as can be", func(f *Facts) { f.Rules.Low, f.Rules.High = 1024, 65535 }},
		{"net.core.somaxconn", "there is room", func(f *Facts) { f.Queues[0].Waiting = 128 }},
		{"net.core.somaxconn", "the program asks for less", func(f *Facts) { f.Somaxconn = 4096 }},
		{"net.core.somaxconn", "no queue", func(f *Facts) { f.Queues = nil }},
		{"RLIMIT_NOFILE", "there is room", func(f *Facts) { f.Files[0].Used = 819 }},
		{"RLIMIT_NOFILE", "no process", func(f *Facts) { f.Files = nil }},
	} {
		t.Run(c.knob+"/"+c.name, func(t *testing.T) {
			f := facts()
			c.remove(f)
			if got := lines(f); !reflect.DeepEqual(got, without(c.knob)) {
				t.Errorf("%v", got)
			}
		})
	}
	t.Run("all that are about ports/nobody is in need", func(t *testing.T) {
		f := facts()
		f.Needs = nil
		want := []string{knobs[3], knobs[4], knobs[5], knobs[6], knobs[8], knobs[9]}
		if got := lines(f); !reflect.DeepEqual(got, want) {
			t.Errorf("%v", got)
		}
	})
}

// Other facts that lead to the same lines.
func TestOtherFacts(t *testing.T) {
	for name, f := range map[string]struct {
		facts Facts
		knob  string
	}{
		"overflows alone":          {Facts{Overflows: 1, MaxTimeWaits: 1000}, "net.ipv4.tcp_max_tw_buckets"},
		"many orphans":             {Facts{Halfway: 1000, MaxTimeWaits: 1 << 20, FinTimeout: time.Minute}, "net.ipv4.tcp_fin_timeout"},
		"a tenth of the buckets":   {Facts{Halfway: 20, MaxTimeWaits: 200, FinTimeout: time.Minute}, "net.ipv4.tcp_fin_timeout"},
		"half of the orphans":      {Facts{Orphans: 50, MaxOrphans: 100}, "net.ipv4.tcp_max_orphans"},
		"four fifths of the files": {Facts{Files: []Files{{1, "x", 80, 100}}}, "RLIMIT_NOFILE"},
	} {
		if got := lines(&f.facts); !reflect.DeepEqual(got, []string{f.knob}) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// The numbers are those of the facts.
func TestWords(t *testing.T) {
	const used = "127.0.0.5 -> 127.0.0.3:6379 has 190 of 200 ports in use, 165 of them in TIME_WAIT"
	want := []Advice{
		{Where: "this netns", Value: "2", Fact: used, Would: "with 1, connect() takes 100 of them now, and each one that comes after 1s",
			WouldNot: "shorten TIME_WAIT, help who calls bind() before connect(), or servers; 40 have no TCP timestamp and stay"},
		{Where: "this netns", Value: "1000", Fact: used + "; 25 are too young for tcp_tw_reuse", Would: "a smaller one lets connect() take those 25 sooner",
			WouldNot: "help those without TCP timestamps; it guards against late segments of the old connection"},
		{Where: "this netns", Value: "0", Fact: used + "; 40 have no TCP timestamp, so tcp_tw_reuse takes none of those",
			Would:    "with 1, TIME_WAIT of connections made from then on may be reused",
			WouldNot: "help the 40 that are there, or where the peer sends no timestamps"},
		{Where: "this netns", Value: "200", Fact: "185 are in use", Would: "a larger one gives each socket its TIME_WAIT, for some 256 bytes of kernel memory",
			WouldNot: "free ports; nor is any TIME_WAIT cleared when it is reached, only new ones are refused"},
		{Where: "this netns", Value: "60", Fact: "20 closed sockets wait in FIN_WAIT2 for a peer that does not close; 127.0.0.5 -> 127.0.0.3:6379 has 20 of its 200 ports there",
			Would: "a shorter one ends them sooner, with their ports and memory", WouldNot: "shorten TIME_WAIT: that is a constant of the kernel"},
		{Where: "this netns", Value: "0", Fact: "a RST ended 7 TIME_WAIT in 10s",
			Would:    "with 1, a RST is dropped there and TIME_WAIT lasts, which keeps old segments out of new connections",
			WouldNot: "free ports: on the contrary, they are kept longer"},
		{Where: "the host", Value: "4096", Fact: "3000 closed sockets are not done with their peers yet, and beyond 4096 the kernel resets them",
			Would:    "a larger one lets them end in order, for up to 64 KiB each",
			WouldNot: "make peers answer; who they are, ss -tan state last-ack tells, or fin-wait-1"},
		{Where: "this netns", Value: "40000 40199", Fact: used + "; and 1 more; that sustains 3.0 connections/s, and the rate is 10.0",
			Would:    `"1024 65535" gives 64512 ports, which sustain 967.7 connections/s; reserve with ip_local_reserved_ports what listens there: 8080,9090`,
			WouldNot: "shorten TIME_WAIT; a program that binds a port of its own there may find it taken"},
		{Where: "this netns", Value: "128", Fact: "130 connections wait to be accepted at 0.0.0.0:8080, whose queue holds 128",
			Would:    "a larger one lets more wait, once the program has called listen() again and asked for more",
			WouldNot: "make the program accept faster"},
		{Where: "pid 4121 (payment)", Value: "1024", Fact: "900 of 1024 descriptors are in use",
			Would: `"prlimit --pid 4121 --nofile=2048:" gives it room, while it runs, as far as its hard limit allows`, WouldNot: "close what leaks; afterfin leaks tells"},
	}
	got := For(facts())
	for i := range want {
		want[i].Knob = knobs[i]
		if got[i] != want[i] {
			t.Errorf("got  %+v\nwant %+v", got[i], want[i])
		}
	}
}

// What listens outside of the widest range, or is reserved, needs no reserving; eight are named.
func TestToReserve(t *testing.T) {
	f := facts()
	f.Rules.Reserved = []ports.Span{{First: 3306, Last: 3306}}
	f.Listening = []uint16{22, 443, 3306, 5001, 5002, 5003, 5004, 5005, 5006, 5007, 5008}
	for want, more := range map[string][]uint16{
		": 5001,5002,5003,5004,5005,5006,5007,5008":            nil,
		": 5001,5002,5003,5004,5005,5006,5007,5008 and 2 more": {5009, 5010},
	} {
		f := *f
		f.Listening = append(slices.Clone(f.Listening), more...)
		if got := portRange(&f).Would; !strings.HasSuffix(got, want) {
			t.Errorf("%s; want %s", got, want)
		}
	}
	f.Listening = []uint16{22, 443}
	if got := portRange(f).Would; strings.Contains(got, "reserve") {
		t.Error(got)
	}
}

// Of several the worst is named, and how many more there are.
func TestMore(t *testing.T) {
	f := facts()
	f.Queues = append(f.Queues, Queue{f.Queues[0].Local, 129, 128}, Queue{f.Queues[0].Local, 65, 64})
	f.Files = append(f.Files, Files{5, "a", 90, 100}, Files{6, "b", 80, 100}, Files{7, "c", 79, 100})
	for _, c := range []struct {
		got  *Advice
		want string
	}{
		{somaxconn(f), "130 connections wait to be accepted at 0.0.0.0:8080, whose queue holds 128; and 1 more"},
		{files(f), "900 of 1024 descriptors are in use; and 2 more"},
	} {
		if c.got.Fact != c.want {
			t.Errorf("%s; want %s", c.got.Fact, c.want)
		}
	}
}

func TestInNeed(t *testing.T) {
	for name, c := range map[string]struct {
		d    ports.Destination
		f    ports.Forecast
		want bool
	}{
		"room":          {ports.Destination{Capacity: 100, Used: 79}, ports.Forecast{Rate: 7.9, Peak: 7.9, Sustainable: 10}, false},
		"little room":   {ports.Destination{Capacity: 100, Used: 80}, ports.Forecast{}, true},
		"room by reuse": {ports.Destination{Capacity: 100, Used: 99, InEffect: 30}, ports.Forecast{}, false},
		"rate":          {ports.Destination{Capacity: 100}, ports.Forecast{Rate: 8, Sustainable: 10}, true},
		"peak":          {ports.Destination{Capacity: 100}, ports.Forecast{Rate: 1, Peak: 8, Sustainable: 10}, true},
		"failed":        {ports.Destination{Capacity: 100, Flow: ports.Flow{Calls: event.Calls{Failures: 1}}}, ports.Forecast{}, true},
	} {
		if got := InNeed(&c.d, &c.f); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
