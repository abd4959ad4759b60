// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
	"afterfin/internal/netns"
	"afterfin/internal/survey"
	"afterfin/internal/tcp"
)

// A dead descriptor is named in a look at its own netns, and in no look at another.
func TestDeadElsewhere(t *testing.T) {
	s := &scene{T: t, begin: lab.Mono(), ns: newNetNS(t), family: families[0], sock: make(map[uint64]*expected)}
	client, srv := s.actor("client"), s.actor("server")
	_, atClient, atServer := s.pair(client, srv)
	s.step(client.SetLinger0(atClient.fd))
	s.step(client.CloseFD(atClient.fd))
	_, step, err := srv.Poll(atServer.fd, unix.POLLHUP, -1)
	s.step(step, err)
	for _, ns := range []*lab.NetNS{s.ns, newNetNS(t)} {
		found, err := survey.Look(survey.Config{State: tcp.CloseWait, NetNS: netns.NS{Inode: ns.Inode(), Path: ns.Path()}})
		s.must(err)
		dead := 0
		for _, stray := range found.Strays {
			if stray.Process.PID == srv.PID() && stray.FD == atServer.fd {
				dead++
			}
		}
		if here := ns == s.ns; here != (dead == 1) {
			t.Errorf("its own netns: %v, found %d times", here, dead)
		}
	}
}
