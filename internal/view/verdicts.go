// SPDX-License-Identifier: Apache-2.0

package view

import (
	"fmt"
	"slices"
	"time"

	"afterfin/internal/leak"
	"afterfin/internal/owner"
)

// verdictText says each verdict in words.
var verdictText = map[leak.Verdict]string{
	leak.Undecided:      "not known: the kernel reads it in the program's stead (TLS, MPTCP), or who holds it was not shown",
	leak.NotAccepted:    "nobody accepted it: it waits in the listener's queue",
	leak.InFlight:       "its descriptor is on its way inside a Unix socket (inferred)",
	leak.NoFD:           "no descriptor leads to it: io_uring, or the kernel itself, holds it",
	leak.StillSending:   "the peer has closed its direction, the program still sends: half-closed, as meant",
	leak.TLSCloseUnread: "TLS's close_notify and the end of stream are unread (inferred from their size)",
	leak.DataUnread:     "data and the end of stream behind it are unread: the program stopped reading",
	leak.EOFUnread:      "the program never read the end of stream (Recv-Q 1)",
	leak.EOFRead:        "the program has read all, the end of stream too, and never closed (Recv-Q 0)",
	leak.DeadFD:         "the connection is gone (reset, or timed out), the descriptor stays: never closed",
	leak.PeerOpen:       "we closed our direction, the peer does not close its own",
}

// reasons gives a line for each verdict in the group, the most frequent first.
func reasons(r *leak.Report, g *leak.Group) []string {
	counts := make(map[leak.Verdict]int)
	inherited := 0
	for i := range g.Leaks {
		counts[g.Leaks[i].Verdict]++
		if g.Leaks[i].Inherited {
			inherited++
		}
	}
	if len(g.Dead) > 0 {
		counts[leak.DeadFD] = len(g.Dead)
	}
	var order []leak.Verdict
	for v := range counts {
		order = append(order, v)
	}
	slices.SortFunc(order, func(a, b leak.Verdict) int {
		if counts[a] != counts[b] {
			return counts[b] - counts[a]
		}
		return int(a) - int(b)
	})
	var lines []string
	for _, v := range order {
		line := verdictText[v]
		if len(order) > 1 {
			line = fmt.Sprintf("%s: %s", Thousands(uint64(counts[v])), line)
		}
		if v == leak.NotAccepted {
			line += backlog(g)
		}
		line += carrier(g, v)
		lines = append(lines, line)
	}
	if inherited > 0 {
		lines = append(lines, inheritedText(r, g, inherited))
	}
	return lines
}

// backlog tells how full the queue is; of a listener SendQ is its backlog.
func backlog(g *leak.Group) string {
	for i := range g.Leaks {
		if l := g.Leaks[i].Listener; l != nil && g.Leaks[i].Verdict == leak.NotAccepted {
			return fmt.Sprintf(" of %s (%s of backlog %s)", l.Tuple.Local, Thousands(uint64(l.RecvQ)), Thousands(uint64(l.SendQ)))
		}
	}
	return ""
}

// carrier names the descriptor through which the sockets are held.
func carrier(g *leak.Group, v leak.Verdict) string {
	for i := range g.Leaks {
		if c := g.Leaks[i].Carrier; c != nil && g.Leaks[i].Verdict == v {
			return fmt.Sprintf(", most likely through fd %d", c.FD)
		}
	}
	return ""
}

func inheritedText(r *leak.Report, g *leak.Group, n int) string {
	text := fmt.Sprintf("inherited: %s of them were made by another process than those that hold them", Thousands(uint64(n)))
	if parent := parentOf(r, g.Process); parent != nil && !holds(g, parent) {
		text += fmt.Sprintf("; the parent, %s pid %d, has closed them", printable(parent.Comm), parent.PID)
	}
	return text
}

func parentOf(r *leak.Report, p *owner.Process) *owner.Process {
	if p == nil {
		return nil
	}
	return r.Parents[p.PPID]
}

func holds(g *leak.Group, p *owner.Process) bool {
	for i := range g.Leaks {
		for _, h := range g.Leaks[i].Holders {
			if same(h.Process, p) {
				return true
			}
		}
	}
	return false
}

// nextSteps is the next step, by the verdict that most of the group have.
func nextSteps(g *leak.Group) []string {
	v, _ := g.Verdict()
	lines := []string{nextText[v]}
	if lines[0] == "" {
		lines = nil
	}
	if in, ok := g.EMFILE(); ok && in < 24*time.Hour {
		lines = append(lines, prlimitText(g.Process, in))
	}
	if len(g.Leaks) > 0 && v != leak.PeerOpen && v != leak.StillSending && v != leak.NotAccepted {
		lines = append(lines, "ss -K would destroy the socket, but frees no descriptor: the leak stays and is harder to see")
	}
	return lines
}

func prlimitText(p *owner.Process, in time.Duration) string {
	when := "now"
	if in > 0 {
		when = "in ~" + Duration(in)
	}
	return fmt.Sprintf("prlimit --pid %d --nofile=%d: buys time (EMFILE %s)", p.PID, max(p.FDLimit, uint64(p.FDs))*2, when)
}

var nextText = map[leak.Verdict]string{
	leak.NotAccepted:    "the program does not call accept(): is it stuck, or is the queue longer than it can serve?",
	leak.InFlight:       "somebody must receive the descriptor, or the Unix socket must be closed",
	leak.NoFD:           "if by io_uring: unregister the file",
	leak.TLSCloseUnread: "most likely an idle connection of a pool: an idle timeout below the server's closes it",
	leak.DataUnread:     "close() where the program gives up on a reply (in Go: the unclosed Response.Body)",
	leak.EOFUnread:      "close() on that path; a pool needs an idle timeout below the peer's",
	leak.EOFRead:        "close() where read() returns 0",
	leak.DeadFD:         "close() where read() or write() fails",
	leak.PeerOpen:       "the peer leaks: run afterfin leaks there; here close() instead of shutdown() would start tcp_fin_timeout",
}
