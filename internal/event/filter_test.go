// SPDX-License-Identifier: Apache-2.0

package event

import (
	"net/netip"
	"testing"

	"afterfin/internal/tcp"
)

func TestFilterMatch(t *testing.T) {
	row := Transition{
		NetNS: 7,
		Tuple: tcp.Tuple{Local: netip.MustParseAddrPort("10.0.0.1:80"), Remote: netip.MustParseAddrPort("10.0.0.2:4000")},
		From:  tcp.Established, To: tcp.CloseWait,
		Owner: Owner{PID: 5, Comm: Comm{'n', 'g', 'i', 'n', 'x'}, How: HowClose},
	}
	states := func(s ...tcp.State) (set tcp.StateSet) {
		for _, x := range s {
			set.Add(x)
		}
		return set
	}
	for name, c := range map[string]struct {
		f    Filter
		want bool
	}{
		"empty":         {Filter{}, true},
		"pid":           {Filter{PIDs: []uint32{4, 5}}, true},
		"other pid":     {Filter{PIDs: []uint32{4}}, false},
		"comm":          {Filter{Comm: "nginx"}, true},
		"part of comm":  {Filter{Comm: "ngin"}, false},
		"local port":    {Filter{LocalPorts: []uint16{443, 80}}, true},
		"remote port":   {Filter{RemotePorts: []uint16{80}}, false},
		"state entered": {Filter{States: states(tcp.CloseWait)}, true},
		"state left":    {Filter{States: states(tcp.Established)}, true},
		"other state":   {Filter{States: states(tcp.Listen, tcp.LastAck)}, false},
		"netns":         {Filter{NetNS: 7}, true},
		"other netns":   {Filter{NetNS: 8}, false},
		"ipv4":          {Filter{Family: 4}, true},
		"ipv6":          {Filter{Family: 6}, false},
		"one of many":   {Filter{PIDs: []uint32{5}, LocalPorts: []uint16{81}}, false},
	} {
		if got := c.f.Match(&row); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
