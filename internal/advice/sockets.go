// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"fmt"
	"time"

	"afterfin/internal/tcp"
)

func maxTimeWaits(f *Facts) *Advice {
	all := f.TimeWaits + f.Halfway
	full := f.MaxTimeWaits > 0 && float64(all) >= near*float64(f.MaxTimeWaits)
	if !full && f.Overflows == 0 {
		return nil
	}
	a := &Advice{
		Knob: "net.ipv4.tcp_max_tw_buckets", Value: fmt.Sprint(f.MaxTimeWaits),
		Fact:     fmt.Sprintf("%d are in use", all),
		Would:    "a larger one gives each socket its TIME_WAIT, for some 256 bytes of kernel memory",
		WouldNot: "free ports; nor is any TIME_WAIT cleared when it is reached, only new ones are refused",
	}
	if f.Overflows > 0 {
		a.Fact += fmt.Sprintf("; %d sockets got no TIME_WAIT in %v (TCPTimeWaitOverflow)", f.Overflows, f.While.Round(time.Millisecond))
	}
	return a
}

// manyOrphans is much on any host.
const manyOrphans = 1000

func finTimeout(f *Facts) *Advice {
	if f.FinTimeout == 0 {
		return nil
	}
	ofPorts := ""
	for i := range f.Needs {
		d := f.Needs[i].Destination
		n := len(d.Frees) - d.ByState[tcp.TimeWait] // mini-sockets in FIN_WAIT2: those that a process holds stay
		if float64(n) >= much*float64(d.Capacity) && n > 0 {
			ofPorts = fmt.Sprintf("; %s has %d of its %d ports there", name(d), n, d.Capacity)
			break
		}
	}
	if ofPorts == "" && f.Halfway < manyOrphans && (f.MaxTimeWaits == 0 || float64(f.Halfway) < much*float64(f.MaxTimeWaits)) {
		return nil
	}
	return &Advice{
		Knob: "net.ipv4.tcp_fin_timeout", Value: fmt.Sprint(int(f.FinTimeout / time.Second)),
		Fact:     fmt.Sprintf("%d closed sockets wait in FIN_WAIT2 for a peer that does not close%s", f.Halfway, ofPorts),
		Would:    "a shorter one ends them sooner, with their ports and memory",
		WouldNot: "shorten TIME_WAIT: that is a constant of the kernel",
	}
}

func rfc1337(f *Facts) *Advice {
	if f.Resets == 0 || f.RFC1337 != 0 {
		return nil
	}
	return &Advice{
		Knob: "net.ipv4.tcp_rfc1337", Value: "0",
		Fact:     fmt.Sprintf("a RST ended %d TIME_WAIT in %v", f.Resets, f.While.Round(time.Millisecond)),
		Would:    "with 1, a RST is dropped there and TIME_WAIT lasts, which keeps old segments out of new connections",
		WouldNot: "free ports: on the contrary, they are kept longer",
	}
}

func maxOrphans(f *Facts) *Advice {
	if f.MaxOrphans == 0 || float64(f.Orphans) < half*float64(f.MaxOrphans) {
		return nil
	}
	return &Advice{
		Knob: "net.ipv4.tcp_max_orphans", Where: "the host", Value: fmt.Sprint(f.MaxOrphans),
		Fact:     fmt.Sprintf("%d closed sockets are not done with their peers yet, and beyond %d the kernel resets them", f.Orphans, f.MaxOrphans),
		Would:    "a larger one lets them end in order, for up to 64 KiB each",
		WouldNot: "make peers answer; who they are, ss -tan state last-ack tells, or fin-wait-1",
	}
}

func somaxconn(f *Facts) *Advice {
	q, more := first(f.Queues, func(q *Queue) bool { // else the program itself asks for no more
		return q.Full() && f.Somaxconn > 0 && q.Backlog == f.Somaxconn
	})
	if q == nil {
		return nil
	}
	return &Advice{
		Knob: "net.core.somaxconn", Value: fmt.Sprint(f.Somaxconn),
		Fact:     fmt.Sprintf("%d connections wait to be accepted at %v, whose queue holds %d%s", q.Waiting, q.Local, q.Backlog, more),
		Would:    "a larger one lets more wait, once the program has called listen() again and asked for more",
		WouldNot: "make the program accept faster",
	}
}

func files(f *Facts) *Advice {
	p, more := first(f.Files, (*Files).CloseToLimit)
	if p == nil {
		return nil
	}
	// Without the colon prlimit would lower the hard limit as well, and only root raises it again.
	return &Advice{
		Knob: "RLIMIT_NOFILE", Where: fmt.Sprintf("pid %d (%s)", p.PID, p.Comm), Value: fmt.Sprint(p.Limit),
		Fact:     fmt.Sprintf("%d of %d descriptors are in use%s", p.Used, p.Limit, more),
		Would:    fmt.Sprintf("\"prlimit --pid %d --nofile=%d:\" gives it room, while it runs, as far as its hard limit allows", p.PID, 2*p.Limit),
		WouldNot: "close what leaks; afterfin leaks tells",
	}
}
