// SPDX-License-Identifier: Apache-2.0

package survey

import (
	"net/netip"
	"testing"

	"afterfin/internal/event"
	"afterfin/internal/leak"
	"afterfin/internal/tcp"
)

func TestParseOrphans(t *testing.T) {
	const golden = "sockets: used 290\nTCP: inuse 5 orphan 3 tw 2 alloc 7 mem 1\nUDP: inuse 2 mem 0\nUDPLITE: inuse 0\nRAW: inuse 0\nFRAG: inuse 0 memory 0\n"
	if n, err := parseOrphans([]byte(golden)); n != 3 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	for _, text := range []string{"", "garbage", "TCP: inuse", "TCP: inuse 5", "TCP: inuse 5 orphan", "TCP: inuse 5 orphan x tw 2",
		"TCP: inuse x orphan 3", "TCP: inuse 5 tw 3", "TCP: orphan 3", "UDP: inuse 5 orphan 3"} {
		if n, err := parseOrphans([]byte(text)); n != 0 || err == nil {
			t.Errorf("%q: %d, %v", text, n, err)
		}
	}
}

func TestListenerOf(t *testing.T) {
	const home, away = 1, 2
	listener := func(netns uint32, at string, waiting uint32) *event.Existing {
		return &event.Existing{NetNS: netns, State: tcp.Listen, RecvQ: waiting, Cookie: uint64(waiting),
			Tuple: tcp.Tuple{Local: netip.MustParseAddrPort(at)}}
	}
	for name, c := range map[string]struct {
		listeners []*event.Existing
		local     string
		want      uint32 // how many wait there; 0: none
	}{
		"exact":                       {[]*event.Existing{listener(home, "10.0.0.5:80", 1), listener(home, "0.0.0.0:80", 2)}, "10.0.0.5:80", 1},
		"another address":             {[]*event.Existing{listener(home, "10.0.0.6:80", 1)}, "10.0.0.5:80", 0},
		"wildcard":                    {[]*event.Existing{listener(home, "0.0.0.0:80", 1), listener(home, "[::]:80", 2)}, "10.0.0.5:80", 1},
		"IPv6 wildcard for IPv4":      {[]*event.Existing{listener(home, "[::]:80", 1)}, "10.0.0.5:80", 1},
		"IPv6 wildcard":               {[]*event.Existing{listener(home, "[::]:80", 1), listener(home, "0.0.0.0:80", 2)}, "[2001:db8::5]:80", 1},
		"IPv6 exact":                  {[]*event.Existing{listener(home, "[::]:80", 1), listener(home, "[2001:db8::5]:80", 2)}, "[2001:db8::5]:80", 2},
		"IPv4 wildcard is not IPv6's": {[]*event.Existing{listener(home, "0.0.0.0:80", 1)}, "[2001:db8::5]:80", 0},
		"another netns":               {[]*event.Existing{listener(away, "10.0.0.5:80", 1)}, "10.0.0.5:80", 0},
		"another port":                {[]*event.Existing{listener(home, "10.0.0.5:81", 1)}, "10.0.0.5:80", 0},
		"of several the fullest":      {[]*event.Existing{listener(home, "0.0.0.0:80", 1), listener(home, "0.0.0.0:80", 9), listener(home, "0.0.0.0:80", 2)}, "10.0.0.5:80", 9},
	} {
		l := look{listeners: make(map[place]*leak.Listener)}
		for _, e := range c.listeners {
			l.listens(e)
		}
		s := &leak.Socket{Existing: event.Existing{NetNS: home, Tuple: tcp.Tuple{Local: netip.MustParseAddrPort(c.local)}}}
		var got uint32
		if found := l.listenerOf(s); found != nil {
			got = found.RecvQ
		}
		if got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}
