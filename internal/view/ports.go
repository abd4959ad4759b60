// SPDX-License-Identifier: Apache-2.0

package view

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"afterfin/internal/advice"
	"afterfin/internal/event"
	"afterfin/internal/owner"
	"afterfin/internal/ports"
	"afterfin/internal/tcp"
	"afterfin/internal/timewait"
)

// Ports is a report on how ports are used.
type Ports struct {
	Spaces      []*ports.Space
	Unreachable int           // netns, or processes that may be in one
	Took        time.Duration // the sample; 0: none, or not yet
	Lost        event.Lost
	Wheel       timewait.Wheel
	Length      time.Duration             // that the timer of a TIME_WAIT is set to
	Measured    bool                      // Length was; else it is what mainline has
	Processes   map[uint32]*owner.Process // owners that are alive, those who use the most
	Advice      []advice.Advice
}

// Mean is how long a TIME_WAIT lasts in the middle.
func (r *Ports) Mean() time.Duration { return r.Wheel.Mean(r.Length) }

// topDestinations is how many of a netns the text has; JSON has more.
const topDestinations = 10

// WritePorts writes the report for a person: the fullest destinations of each netns first.
func WritePorts(w io.Writer, r *Ports) error {
	var b strings.Builder
	none := 0
	for _, s := range r.Spaces {
		if len(s.Destinations) == 0 && len(s.Listeners) == 0 {
			none++
			continue
		}
		writePortSpace(&b, r, s)
	}
	if none > 0 {
		fmt.Fprintf(&b, "%d %snetns in which nobody connects\n", none, other(len(r.Spaces) > none))
	}
	writeAdvice(&b, r.Advice)
	if r.Unreachable > 0 {
		fmt.Fprintf(&b, "netns of %s not entered (CAP_SYS_ADMIN, CAP_SYS_PTRACE)\n", plural(r.Unreachable, "process"))
	}
	if r.Took > 0 {
		fmt.Fprintf(&b, "in %s   lost %s   a bind() that fails makes no event: not counted\n", Duration(r.Took), LostText(r.Lost))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writePortSpace(b *strings.Builder, r *Ports, s *ports.Space) {
	rules := &s.Rules
	fmt.Fprintf(b, "%s  ports %d-%d (%s, reserved %s)\n", SpaceName(s.Path, s.NetNS), rules.Low, rules.High,
		Thousands(uint64(rules.Range())), Thousands(uint64(rules.ReservedInRange())))
	if s.Inferred {
		b.WriteString("  by sock_diag alone: whose port bind() chose is not known, nor what tcp_tw_reuse would take\n")
	}
	for i, d := range s.Destinations {
		if i == topDestinations {
			fmt.Fprintf(b, "  and %s more destinations\n", Thousands(uint64(len(s.Destinations)-i)))
			break
		}
		writeDestination(b, r, s, d)
	}
	for _, l := range s.Listeners {
		writeListener(b, l, s)
	}
	if c := s.Conntrack; c != nil {
		fmt.Fprintf(b, "conntrack is active (%s entries): its TIME_WAIT is %s; ports that NAT gives out are not in this forecast\n",
			Thousands(uint64(c.Count)), Duration(c.TimeWait))
	}
}

func destinationName(d *ports.Destination) string {
	if d.Bound {
		return d.Source.String() + " -> anywhere (bind before connect)"
	}
	return d.Source.String() + " -> " + addrText(d.Remote)
}

func writeDestination(b *strings.Builder, r *Ports, s *ports.Space, d *ports.Destination) {
	f := d.Forecast(&s.Rules, r.Mean())
	fmt.Fprintf(b, "%s   used %s of %s%s%s\n", destinationName(d), Thousands(uint64(d.Used)), Thousands(uint64(d.Capacity)),
		share(d), portStates(d.ByState))
	if d.Blocked > 0 {
		fmt.Fprintf(b, "  blocked   %s ports of the range are held by others, so that it cannot have them\n", Thousands(uint64(d.Blocked)))
	}
	if r.Took > 0 {
		fmt.Fprintf(b, "  %s; now %s, peak %s%s\n", failsAbove(d, &s.Rules, &f), rate(f.Rate), rate(f.Peak), exhaustion(d, &f))
		if d.Flow.Failures > 0 {
			fmt.Fprintf(b, "  failures  EADDRNOTAVAIL %s in %s: %s\n", Thousands(d.Flow.Failures), Duration(r.Took), failedText(r, d))
		}
	}
	if d.Free() <= 0 && f.NextFree >= 0 {
		fmt.Fprintf(b, "  free      the next port in %s, all that are in TIME_WAIT in %s\n", Duration(f.NextFree), Duration(f.AllFree))
	}
	if text := usersText(r, d); text != "" {
		fmt.Fprintf(b, "  who       %s\n", text)
	}
	if !s.Inferred && d.Reusable+d.TooYoung+d.NoStamp > 0 {
		fmt.Fprintf(b, "  reuse     %s\n", reuseText(s, d))
	}
}

func share(d *ports.Destination) string {
	if d.Capacity <= 0 {
		return ""
	}
	return fmt.Sprintf(" (%s)", percent(uint64(d.Used), uint64(d.Capacity)))
}

// portStates: most first.
func portStates(by map[tcp.State]int) string {
	states := slices.SortedFunc(maps.Keys(by), func(a, c tcp.State) int { return cmp.Or(cmp.Compare(by[c], by[a]), cmp.Compare(a, c)) })
	var text string
	for _, s := range states {
		text += "   " + s.String() + " " + Thousands(uint64(by[s]))
	}
	return text
}

func failsAbove(d *ports.Destination, rules *ports.Rules, f *ports.Forecast) string {
	if f.Share == 0 {
		return "no connection leaves a TIME_WAIT here: ports are free at once"
	}
	text := fmt.Sprintf("fails above %s (ports / %s", rate(f.Sustainable), Duration(f.Hold))
	if f.Share < 0.995 {
		text += fmt.Sprintf(", %.0f %% leave a TIME_WAIT", 100*f.Share)
	}
	if d.ReuseApplies(rules) {
		text += ", by tcp_tw_reuse"
	}
	return text + ")"
}

func exhaustion(d *ports.Destination, f *ports.Forecast) string {
	switch {
	case f.Exhausted == 0:
		return ": no port left"
	case f.Exhausted > 0:
		return ": none left in " + Duration(f.Exhausted)
	case f.Rate == 0:
		return ""
	}
	return fmt.Sprintf(": settles at %s of %s ports", Thousands(uint64(f.Level+0.5)), Thousands(uint64(d.Capacity)))
}

func usersText(r *Ports, d *ports.Destination) string {
	var parts []string
	for i := range d.Owners {
		o := &d.Owners[i]
		if i == topMakers {
			parts = append(parts, fmt.Sprintf("and %s more", Thousands(uint64(len(d.Owners)-i))))
			break
		}
		parts = append(parts, userName(r, o)+ownerCounts(o))
	}
	return strings.Join(parts, "   ")
}

// failedText names those whose connect() failed, the most often first.
func failedText(r *Ports, d *ports.Destination) string {
	failed := slices.DeleteFunc(slices.Clone(d.Owners), func(o ports.Owner) bool { return o.Failures == 0 })
	slices.SortStableFunc(failed, func(a, b ports.Owner) int { return cmp.Compare(b.Failures, a.Failures) })
	var parts []string
	for i := range failed {
		if i == topMakers {
			parts = append(parts, fmt.Sprintf("and %s more", Thousands(uint64(len(failed)-i))))
			break
		}
		parts = append(parts, userName(r, &failed[i])+" "+Thousands(failed[i].Failures))
	}
	return strings.Join(parts, "   ")
}

func userName(r *Ports, o *ports.Owner) string {
	switch p := r.Processes[o.PID]; {
	case o.PID == 0:
		return "unknown"
	case p != nil:
		return processName(p)
	}
	return printable(o.Comm.String()) + " pid " + strconv.Itoa(int(o.PID))
}

func ownerCounts(o *ports.Owner) string {
	var counts []string
	if o.Sockets > 0 {
		counts = append(counts, "holds "+Thousands(uint64(o.Sockets)))
	}
	if o.Connects > 0 {
		counts = append(counts, plural(int(o.Connects), "connect"))
	}
	return " (" + strings.Join(counts, ", ") + ")"
}

func reuseText(s *ports.Space, d *ports.Destination) string {
	parts := []string{}
	if n := d.InEffect; n > 0 {
		parts = append(parts, fmt.Sprintf("connect() takes %s of these TIME_WAIT (tcp_tw_reuse is %d)", Thousands(uint64(n)), s.Rules.Reuse))
	}
	if n := d.Reusable - d.InEffect; n > 0 {
		parts = append(parts, fmt.Sprintf("tcp_tw_reuse=1 would let connect() take %s now", Thousands(uint64(n))))
	}
	if d.TooYoung > 0 {
		parts = append(parts, fmt.Sprintf("%s are younger than %s", Thousands(uint64(d.TooYoung)), Duration(s.Rules.Delay())))
	}
	if d.NoStamp > 0 {
		parts = append(parts, fmt.Sprintf("%s have no TCP timestamp: never", Thousands(uint64(d.NoStamp))))
	}
	return strings.Join(parts, "; ")
}

func writeListener(b *strings.Builder, l *ports.Listener, s *ports.Space) {
	when := "could not be bound again"
	if l.Listening {
		when = "could not be bound again if it ended now"
	}
	why := "only with SO_REUSEADDR"
	if l.Refuses {
		why = "SO_REUSEADDR does not help: the old socket lacked it"
	}
	fmt.Fprintf(b, "LISTEN :%d %s, %s:%s", l.Local.Port(), when, why, portStates(l.ByState))
	if l.Until > 0 {
		fmt.Fprintf(b, "   over in %s", Duration(max(0, l.Until-s.At)))
	}
	b.WriteByte('\n')
}
