// SPDX-License-Identifier: Apache-2.0

package view

import (
	"fmt"
	"io"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"afterfin/internal/advice"
	"afterfin/internal/event"
	"afterfin/internal/leak"
	"afterfin/internal/owner"
)

// LeakFoot is what stands below the blocks of a report: what was looked at, and what
// was not seen.
type LeakFoot struct {
	NetNS, Unreachable, Unreadable int
	LastAck, Orphans, MaxOrphans   int
	Lost                           *event.Lost // nil: nothing was followed
	Advice                         []advice.Advice
}

// Samples in a block of text; JSON has all.
const (
	samplePeers   = 3
	sampleFDs     = 10
	sampleHolders = 3
)

// WriteLeaks writes the report for a person: a block for each process that leaks.
func WriteLeaks(w io.Writer, r *leak.Report, foot LeakFoot) error {
	var b strings.Builder
	for i := range r.Groups {
		if g := &r.Groups[i]; g.Pool {
			writePool(&b, r, g)
		} else {
			writeLeak(&b, r, g)
		}
	}
	if len(r.Groups) == 0 {
		fmt.Fprintf(&b, "no %s older than %s", r.State, Duration(r.OlderThan))
		if r.Younger > 0 {
			fmt.Fprintf(&b, " (%s younger)", Thousands(uint64(r.Younger)))
		}
		b.WriteByte('\n')
	}
	writeFoot(&b, r, foot)
	_, err := io.WriteString(w, b.String())
	return err
}

func writeLeak(b *strings.Builder, r *leak.Report, g *leak.Group) {
	fmt.Fprintf(b, "LEAK %s%s\n", processName(g.Process), pressure(g))
	if p := g.Process; p != nil && len(p.Cmdline) > 0 {
		fmt.Fprintf(b, "  cmd    %s\n", shorten(printable(strings.Join(p.Cmdline, " ")), 100))
	}
	var facts []string
	if len(g.Leaks) > 0 {
		facts = append(facts, fmt.Sprintf("%s %s, oldest %s", Thousands(uint64(len(g.Leaks))), r.State, ageText(g.Oldest())))
	}
	if len(g.Dead) > 0 {
		facts = append(facts, plural(len(g.Dead), "dead fd")+" (invisible to ss)")
	}
	if side := sideText(g); side != "" {
		facts = append(facts, "side "+side)
	}
	if g.Unread > 0 {
		facts = append(facts, Thousands(g.Unread)+" bytes unread")
	}
	fmt.Fprintf(b, "  %s\n", strings.Join(facts, "   "))
	if len(g.Peers) > 0 {
		fmt.Fprintf(b, "  peers  %s\n", peersText(g.Peers))
	}
	for i, why := range reasons(r, g) {
		fmt.Fprintf(b, "  %-6s %s\n", first(i, "why"), why)
	}
	for i, line := range whereText(r, g) {
		fmt.Fprintf(b, "  %-6s %s\n", first(i, "where"), line)
	}
	for i, line := range holdersText(g) {
		fmt.Fprintf(b, "  %-6s %s\n", first(i, "fds"), line)
	}
	for i, line := range nextSteps(g) {
		fmt.Fprintf(b, "  %-6s %s\n", first(i, "next"), line)
	}
}

func first(i int, word string) string {
	if i > 0 {
		return ""
	}
	return word
}

// writePool is one line: most likely nothing is wrong.
func writePool(b *strings.Builder, r *leak.Report, g *leak.Group) {
	v, _ := g.Verdict()
	fmt.Fprintf(b, "POOL? %s: %s %s, none seen to come in the last %s, oldest %s, %s, %s\n", processName(g.Process),
		Thousands(uint64(len(g.Leaks))), r.State, Duration(r.OlderThan+time.Minute), ageText(g.Oldest()), verdictText[v], peersText(g.Peers))
}

func processName(p *owner.Process) string {
	if p == nil {
		return "held by nobody that is known"
	}
	parts := []string{printable(p.Comm), "pid " + strconv.Itoa(p.PID)}
	if p.User != "" && p.UID != 0 {
		parts = append(parts, "user "+printable(p.User))
	}
	if p.Unit != "" {
		parts = append(parts, printable(p.Unit))
	}
	if c := containerText(p.Container); c != "" {
		parts = append(parts, c)
	}
	return strings.Join(parts, " ")
}

func containerText(c owner.Container) string {
	name := c.Name
	if name == "" && len(c.ID) >= 12 {
		name = c.ID[:12]
	}
	if c.Pod != "" {
		name = c.Namespace + "/" + c.Pod + "/" + name
	}
	return printable(name)
}

// pressure says how many descriptors there are left, and for how long.
func pressure(g *leak.Group) string {
	p := g.Process
	if p == nil {
		return ""
	}
	text := "   fds " + Thousands(uint64(p.FDs))
	if limited(p) {
		text += "/" + Thousands(p.FDLimit)
	}
	rate := fmt.Sprintf("%+.0f/min (%s)", g.Growth.PerMinute, growthText[g.Growth.Known])
	if in, ok := g.EMFILE(); ok {
		if in == 0 {
			return text + ", EMFILE now, at " + rate
		}
		return text + ", EMFILE in ~" + Duration(in) + " at " + rate
	}
	if g.Growth.PerMinute != 0 {
		return text + ", " + rate
	}
	return text + ", no growth (" + growthText[g.Growth.Known] + ")"
}

func limited(p *owner.Process) bool { return p.FDLimit != 0 && p.FDLimit != math.MaxUint64 }

var growthText = map[leak.GrowthKnown]string{leak.ByAges: "by ages", leak.Sampled: "sampled"}

// ageText rounds a lower bound down: nothing unproven is said.
func ageText(a leak.Age) string {
	switch a.Quality {
	case leak.Unknown:
		return "of unknown age"
	case leak.Exact:
		return Duration(a.Max) + " (exact)"
	}
	return Duration(roundDown(a.Min)) + " to " + Duration(a.Max)
}

func sideText(g *leak.Group) string {
	if len(g.Leaks) == 0 {
		return ""
	}
	var connect, accept bool // of others it is not known
	for i := range g.Leaks {
		connect = connect || g.Leaks[i].Side == event.SideConnect
		accept = accept || g.Leaks[i].Side == event.SideAccept
	}
	switch {
	case connect && accept:
		return "connect and accept"
	case connect:
		return sideWords[event.SideConnect]
	case accept:
		return sideWords[event.SideAccept]
	}
	return ""
}

var sideWords = [...]string{"", "connect", "accept"}

func peersText(peers []leak.Peer) string {
	var parts []string
	for i, p := range peers {
		if i == samplePeers {
			parts = append(parts, fmt.Sprintf("%s more", Thousands(uint64(len(peers)-i))))
			break
		}
		parts = append(parts, fmt.Sprintf("%s %s", peerText(p.Remote), Thousands(uint64(p.Count))))
	}
	return strings.Join(parts, "   ")
}

func peerText(a netip.AddrPort) string {
	if a.Port() == 0 {
		return a.Addr().String()
	}
	return a.String()
}

// holdersText names the descriptors in the process itself, then everybody else who
// holds some of the sockets.
func holdersText(g *leak.Group) []string {
	var fds []int
	others := make(map[*owner.Process]int)
	var order []*owner.Process
	for i := range g.Leaks {
		for _, h := range slices.Concat(g.Leaks[i].Holders, g.Leaks[i].Fixed) {
			if same(h.Process, g.Process) {
				fds = append(fds, h.FD)
				continue
			}
			if others[h.Process] == 0 {
				order = append(order, h.Process)
			}
			others[h.Process]++
		}
	}
	for _, s := range g.Dead {
		fds = append(fds, s.FD)
	}
	if len(fds) == 0 {
		return nil
	}
	line := numbersText(fds)
	if len(order) == 0 {
		return []string{line + "   other holders: none"}
	}
	lines := []string{line}
	for i, p := range order {
		if i == sampleHolders {
			lines = append(lines, "held by "+plural(len(order)-i, "more process"))
			break
		}
		lines = append(lines, fmt.Sprintf("%s of them are also held by %s", Thousands(uint64(others[p])), processName(p)))
	}
	return lines
}

func same(a, b *owner.Process) bool {
	return a != nil && b != nil && a.PID == b.PID && a.Start == b.Start
}

func numbersText(fds []int) string {
	slices.Sort(fds)
	fds = slices.Compact(fds)
	var parts []string
	for i, fd := range fds {
		if i == sampleFDs {
			parts = append(parts, "…")
			break
		}
		parts = append(parts, strconv.Itoa(fd))
	}
	return strings.Join(parts, " ")
}

func writeFoot(b *strings.Builder, r *leak.Report, foot LeakFoot) {
	writeAdvice(b, foot.Advice)
	parts := []string{fmt.Sprintf("%d netns", foot.NetNS)}
	if foot.LastAck > 0 || foot.Orphans > 0 {
		text := fmt.Sprintf("LAST_ACK %s, orphans %s", Thousands(uint64(foot.LastAck)), Thousands(uint64(max(0, foot.Orphans))))
		if foot.MaxOrphans > 0 {
			text += " of " + Thousands(uint64(foot.MaxOrphans)) + " (tcp_max_orphans)"
		}
		parts = append(parts, text)
	}
	if len(r.Groups) > 0 && r.Younger > 0 {
		parts = append(parts, fmt.Sprintf("%s %s younger than %s", Thousands(uint64(r.Younger)), r.State, Duration(r.OlderThan)))
	}
	if r.Ignored > 0 {
		parts = append(parts, Thousands(uint64(r.Ignored))+" ignored")
	}
	if r.Unclear > 0 {
		parts = append(parts, plural(r.Unclear, "TCP descriptor")+" in no dump, dead or never connected (CAP_SYS_PTRACE tells)")
	}
	if foot.Unreadable > 0 {
		parts = append(parts, "descriptors of "+plural(foot.Unreadable, "process")+" not shown (CAP_SYS_PTRACE)")
	}
	if foot.Unreachable > 0 {
		parts = append(parts, "netns of "+plural(foot.Unreachable, "process")+" not entered (CAP_SYS_ADMIN, CAP_SYS_PTRACE)")
	}
	if foot.Lost != nil {
		parts = append(parts, "lost "+LostText(*foot.Lost))
	}
	fmt.Fprintf(b, "%s\n", strings.Join(parts, "   "))
}

func printable(text string) string { return string(appendPrintable(nil, []byte(text))) }

func shorten(text string, most int) string {
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return text
}
