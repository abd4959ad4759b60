// SPDX-License-Identifier: Apache-2.0

package view

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"afterfin/internal/advice"
	"afterfin/internal/conn"
	"afterfin/internal/event"
	"afterfin/internal/owner"
	"afterfin/internal/timewait"
)

// TimeWaits is a report on TIME_WAIT: what is there, and what a sample has shown.
type TimeWaits struct {
	Before *timewait.Now // when the sample began; nil without one
	Now    *timewait.Now
	Sample *TimeWaitSample // nil: not yet, or not at all
	Advice []advice.Advice
}

// TimeWaitSample is what came and went in a while.
type TimeWaitSample struct {
	Took      time.Duration
	Counts    *event.Counts
	Lost      event.Lost
	Wheel     timewait.Wheel
	Length    time.Duration             // that the kernel's timers are set to; 0: none was seen
	Processes map[uint32]*owner.Process // makers that are alive, the most diligent ones
	Each      []conn.Change             // the ends, one by one, if that was asked for
	EachLost  uint64                    // and how many more than are kept
	Heap      uint64                    // bytes of our own memory
	MapMemory uint64                    // bytes of the kernel's that our maps take
	Records   uint64                    // that came through the ring
}

// In a line of text; JSON has all.
const (
	topPeers  = 3
	topMakers = 3
	topCauses = 5
)

// WriteTimeWaitNow writes what is there, for a person: a block for each netns that has any.
func WriteTimeWaitNow(w io.Writer, now *timewait.Now) error {
	var b strings.Builder
	none := 0
	for i := range now.Spaces {
		s := &now.Spaces[i]
		if s.Live == 0 && s.Halfway == 0 {
			none++
			continue
		}
		writeSpace(&b, s, now.MiniBytes)
	}
	if none > 0 {
		fmt.Fprintf(&b, "%d %snetns without TIME_WAIT\n", none, other(len(now.Spaces) > none))
	}
	if now.Unreachable > 0 {
		fmt.Fprintf(&b, "netns of %s not entered (CAP_SYS_ADMIN, CAP_SYS_PTRACE)\n", plural(now.Unreachable, "process"))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeSpace(b *strings.Builder, s *timewait.Space, miniBytes int) {
	fmt.Fprintf(b, "%s  live %s", SpaceName(s.Path, s.NetNS), Thousands(uint64(s.Live)))
	if s.Max >= 0 {
		fmt.Fprintf(b, " of %s", Thousands(uint64(s.Max)))
	}
	if all := s.Live + s.Halfway; miniBytes > 0 && all > 0 {
		fmt.Fprintf(b, " (%s)", Bytes(uint64(all)*uint64(miniBytes)))
	}
	if s.Halfway > 0 {
		fmt.Fprintf(b, "   FIN_WAIT2 mini-sockets %s", Thousands(uint64(s.Halfway)))
	}
	if s.Overflows > 0 {
		fmt.Fprintf(b, "   %s got none since the netns began (TCPTimeWaitOverflow)", Thousands(uint64(s.Overflows)))
	}
	b.WriteByte('\n')
	if s.Live == 0 {
		return
	}
	fmt.Fprintf(b, "  side    %s   (inferred from listeners and ip_local_port_range)\n", sidesText([]uint64{
		uint64(s.Sides[event.SideUnknown]), uint64(s.Sides[event.SideConnect]), uint64(s.Sides[event.SideAccept])}))
	fmt.Fprintf(b, "  peers   %s\n", timeWaitPeers(s.Peers))
}

// SpaceName names a netns by the way into it, which is empty for our own.
func SpaceName(path string, netns uint32) string {
	switch {
	case path == "":
		return "this netns"
	case strings.HasPrefix(path, "/proc/"): // of a process that happens to be in it
		return "netns " + strconv.Itoa(int(netns))
	}
	return "netns " + printable(filepath.Base(path))
}

func sidesText(by []uint64) string {
	parts := []string{
		"connect " + Thousands(by[event.SideConnect]) + " (hold ports)",
		"accept " + Thousands(by[event.SideAccept]) + " (hold none)",
	}
	if n := by[event.SideUnknown]; n > 0 {
		parts = append(parts, "unknown "+Thousands(n))
	}
	return strings.Join(parts, "   ")
}

// timeWaitPeers names where they go to, and for those that came in what they came to.
func timeWaitPeers(peers []event.Peer) string {
	type place struct {
		text  string
		count uint64
	}
	var places []place
	for _, p := range peers {
		text := "to " + netip.AddrPortFrom(p.Remote, p.Port).String()
		switch p.Side {
		case event.SideAccept: // their own port means nothing, and they may be many
			text = "on :" + strconv.Itoa(int(p.Port))
		case event.SideUnknown:
			text = "with " + netip.AddrPortFrom(p.Remote, p.Port).String()
		}
		if i := slices.IndexFunc(places, func(o place) bool { return o.text == text }); i >= 0 {
			places[i].count += p.Count
		} else if len(places) < 1000 { // text shows three
			places = append(places, place{text, p.Count})
		}
	}
	slices.SortStableFunc(places, func(a, b place) int { return cmp.Compare(b.count, a.count) })
	var parts []string
	for i, p := range places {
		if i == topPeers {
			parts = append(parts, fmt.Sprintf("and %s more", Thousands(uint64(len(places)-i))))
			break
		}
		parts = append(parts, p.text+" "+Thousands(p.count))
	}
	return strings.Join(parts, "   ")
}

// WriteTimeWaitSample writes what the sample has shown, for a person.
func WriteTimeWaitSample(w io.Writer, r *TimeWaits) error {
	var b strings.Builder
	s := r.Sample
	quiet := 0
	for i := range r.Now.Spaces {
		if !writeFlow(&b, r, &r.Now.Spaces[i]) {
			quiet++
		}
	}
	if quiet > 0 {
		fmt.Fprintf(&b, "%d %snetns in which none came and none went\n", quiet, other(len(r.Now.Spaces) > quiet))
	}
	writeAdvice(&b, r.Advice)
	writeLengths(&b, s)
	writeLives(&b, s.Counts)
	fmt.Fprintf(&b, "in %s   lost %s   BPF maps %s, heap %s\n", Duration(s.Took), LostText(s.Lost), Bytes(s.MapMemory), Bytes(s.Heap))
	_, err := io.WriteString(w, b.String())
	return err
}

func other(some bool) string {
	if some {
		return "other "
	}
	return ""
}

// writeFlow is false for a netns in which nothing happened.
func writeFlow(b *strings.Builder, r *TimeWaits, space *timewait.Space) bool {
	tally := r.Sample.Counts.Tallies[space.NetNS]
	if tally == nil {
		return false
	}
	f := r.Sample.flow(tally, space)
	fmt.Fprintf(b, "%s  in %s, out %s: %s%s\n", SpaceName(space.Path, space.NetNS), rate(f.In), rate(f.Out), f.Trend, settles(r.Sample, &f, space))
	if timewait.Sum(tally.Entered[:]) > 0 {
		fmt.Fprintf(b, "  side    %s\n", sidesText(tally.Entered[:]))
		fmt.Fprintf(b, "  peers   %s\n", timeWaitPeers(peersIn(r.Sample.Counts, space.NetNS)))
		fmt.Fprintf(b, "  makers  %s\n", makersText(r.Sample, space.NetNS))
	}
	if text := causesText(tally.Ended[:]); text != "" {
		fmt.Fprintf(b, "  ends    %s%s\n", text, restartsText(tally))
	}
	if text := causesText(tally.HalfwayEnded[:]); text != "" {
		fmt.Fprintf(b, "  FIN_WAIT2 mini-sockets that the peer never closed: %s\n", text)
	}
	if n := unseen(r, tally, space); n > 0 && uint64(n) > slack(tally) {
		fmt.Fprintf(b, "  %s ends were not seen: sock_diag has them no more, and nothing was told (lost, or kept from our programs by this kernel)\n", Thousands(uint64(n)))
	}
	if n := r.Before.Overflowed(r.Now, space.NetNS); n > 0 {
		fmt.Fprintf(b, "  %s sockets got no TIME_WAIT: tcp_max_tw_buckets (%s) or memory is used up\n", Thousands(uint64(n)), Thousands(uint64(space.Max)))
	}
	return true
}

func (s *TimeWaitSample) flow(tally *event.Tally, space *timewait.Space) timewait.Flow {
	return timewait.NewFlow(timewait.Sampled{
		Entered: timewait.Sum(tally.Entered[:]), Ended: timewait.Sum(tally.Ended[:]), Expired: tally.Ended[event.CauseExpired],
		Live: space.Live, While: s.Took,
	}, s.Wheel, s.Length)
}

func settles(s *TimeWaitSample, f *timewait.Flow, space *timewait.Space) string {
	if f.In == 0 || s.Length == 0 || f.Settles < 0 {
		return ""
	}
	text := fmt.Sprintf("%s × %s = %s", rate(f.In), Duration(s.Wheel.Mean(s.Length)), Thousands(uint64(f.Settles+0.5)))
	if f.Trend == timewait.Steady {
		text = " (" + text + ")"
	} else {
		text = " towards " + text
	}
	if space.Max >= 0 && f.Settles > float64(space.Max) {
		text += fmt.Sprintf(", more than tcp_max_tw_buckets (%s): the rest gets none", Thousands(uint64(space.Max)))
	}
	return text
}

// unseen is by how much more were there before, and began, than ended and are there: the ends
// that nobody told of, and what came and went between reading the counts and the dump.
func unseen(r *TimeWaits, tally *event.Tally, space *timewait.Space) int64 {
	before := r.Before.Space(space.NetNS)
	if before == nil {
		return 0
	}
	return int64(before.Live) + int64(timewait.Sum(tally.Entered[:])) - int64(timewait.Sum(tally.Ended[:])) - int64(space.Live)
}

// slack is what may come and go between the two.
func slack(tally *event.Tally) uint64 {
	return 10 + (timewait.Sum(tally.Entered[:])+timewait.Sum(tally.Ended[:]))/50
}

func peersIn(c *event.Counts, netns uint32) []event.Peer {
	found := slices.DeleteFunc(slices.Clone(c.Peers), func(p event.Peer) bool { return p.NetNS != netns })
	timewait.SortPeers(found)
	return found
}

func makersIn(c *event.Counts, netns uint32) []event.Maker {
	found := slices.DeleteFunc(slices.Clone(c.Makers), func(m event.Maker) bool { return m.NetNS != netns })
	timewait.SortMakers(found)
	return found
}

func makersText(s *TimeWaitSample, netns uint32) string {
	makers := mergeSides(makersIn(s.Counts, netns))
	all := timewait.Sum(s.Counts.Tallies[netns].Entered[:])
	var parts []string
	for i := range makers {
		m := &makers[i]
		if i == topMakers {
			parts = append(parts, fmt.Sprintf("and %s more", Thousands(uint64(len(makers)-i))))
			break
		}
		name := "unknown"
		if p := s.Processes[m.PID]; p != nil && m.PID != 0 {
			name = processName(p)
		} else if m.PID != 0 {
			name = printable(m.Comm.String()) + " pid " + strconv.Itoa(int(m.PID))
		}
		parts = append(parts, name+" "+percent(m.Count, all))
	}
	return strings.Join(parts, "   ")
}

// mergeSides: who connects and accepts is one maker.
func mergeSides(makers []event.Maker) (merged []event.Maker) {
	for _, m := range makers {
		i := slices.IndexFunc(merged, func(o event.Maker) bool { return o.PID == m.PID && o.Start == m.Start })
		if i < 0 {
			merged = append(merged, m)
			continue
		}
		merged[i].Count += m.Count
	}
	timewait.SortMakers(merged)
	return merged
}

func causesText(counts []uint64) string {
	all := timewait.Sum(counts)
	var causes []int
	for c, n := range counts {
		if n > 0 {
			causes = append(causes, c)
		}
	}
	slices.SortStableFunc(causes, func(a, b int) int { return cmp.Compare(counts[b], counts[a]) })
	var parts []string
	for i, c := range causes {
		if i == topCauses {
			break
		}
		parts = append(parts, fmt.Sprintf("%s %s (%s)", event.Cause(c), Thousands(counts[c]), percent(counts[c], all)))
	}
	return strings.Join(parts, "   ")
}

func restartsText(t *event.Tally) string {
	switch {
	case t.RestartsUnknown > 0 && t.RestartsUnknown == timewait.Sum(t.Ended[:]):
		return "   restarts not known"
	case t.Restarts > 0:
		return fmt.Sprintf("   2MSL restarted %s times in %s of them", Thousands(t.Restarts), Thousands(t.Restarted))
	}
	return ""
}

// percent of a whole, with a digit more near its ends: 99.6 % is not all.
func percent(n, all uint64) string {
	p := 100 * float64(n) / float64(max(1, all))
	switch {
	case n == all:
		return "100 %"
	case p > 99 || p < 1:
		return strconv.FormatFloat(min(max(p, 0.1), 99.9), 'f', 1, 64) + " %"
	}
	return strconv.FormatFloat(p, 'f', 0, 64) + " %"
}

// rate with as many digits as mean something.
func rate(perSecond float64) string {
	if perSecond >= 10 || perSecond == 0 {
		return Thousands(uint64(perSecond+0.5)) + "/s"
	}
	return strconv.FormatFloat(perSecond, 'g', 2, 64) + "/s"
}

// Bytes writes 6,241,280 as 6.24 MB.
func Bytes(n uint64) string {
	switch {
	case n >= 1e9:
		return string(appendScaled(nil, n, 1e9, 3)) + " GB"
	case n >= 1e6:
		return string(appendScaled(nil, n, 1e6, 3)) + " MB"
	case n >= 1e3:
		return string(appendScaled(nil, n, 1e3, 3)) + " kB"
	}
	return strconv.FormatUint(n, 10) + " B"
}
