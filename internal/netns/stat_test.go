// SPDX-License-Identifier: Apache-2.0

package netns

import "testing"

func TestParseOverflows(t *testing.T) {
	const ip = "IpExt: InNoRoutes TCPTimeWaitOverflow\nIpExt: 0 5\n"
	for text, want := range map[string]struct {
		n  uint64
		ok bool
	}{
		ip + "TcpExt: TW TCPTimeWaitOverflow TWKilled\nTcpExt: 3 18446744073709551615 2\n" + ip: {1<<64 - 1, true},
		"TcpExt: TW TCPTimeWaitOverflow\nTcpExt: 3\n":                                           {0, false},
		"TcpExt: TW TCPTimeWaitOverflow\nTcpExt: 3 x\n":                                         {0, false},
		"TcpExt: TW\nTcpExt: 3\n":                                                               {0, false},
		"TcpExt: TCPTimeWaitOverflow\n":                                                         {0, false},
		ip:                                                                                      {0, false},
		"":                                                                                      {0, false},
	} {
		if n, ok := parseOverflows([]byte(text)); n != want.n || ok != want.ok {
			t.Errorf("%q: %d, %v, want %d, %v", text, n, ok, want.n, want.ok)
		}
	}
}
