// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"errors"
	"fmt"

	"afterfin/internal/clock"
	"afterfin/internal/event"
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// notTheEnd is AF_NOT_THE_END in bpf/timewait.h: the timer is only moved.
const notTheEnd event.Cause = 255

// culprits are the kernel functions that tell, from the stack, why a mini-socket
// ends. The innermost one found counts, so that of a SYN that comes in while a
// timer runs the SYN is told.
var culprits = map[string]event.Cause{
	"tw_timer_handler": event.CauseExpired, "call_timer_fn": event.CauseExpired, "expire_timers": event.CauseExpired,
	"__run_timers": event.CauseExpired, "__run_timer_base": event.CauseExpired, "run_timer_softirq": event.CauseExpired,
	"inet_twsk_purge": event.CauseNetNSExit,
	"tcp_abort":       event.CauseDestroyed, "tcp_diag_destroy": event.CauseDestroyed,
	"tcp_timewait_state_process": event.CauseReset,
	"__inet_hash_connect":        event.CauseReusedConnect, "__inet_check_established": event.CauseReusedConnect, "__inet6_check_established": event.CauseReusedConnect,
	"tcp_v4_rcv": event.CauseReusedSYN, "tcp_v6_rcv": event.CauseReusedSYN,
	"__mod_timer": notTheEnd,
}

const (
	timerHandler = "tw_timer_handler"
	maxCulprits  = 24 // AF_CULPRITS
)

// culprit is struct af_culprit.
type culprit struct{ Begin, End, Cause uint64 }

var errNoTimeWait = errors.New("--no-timewait")

// configureTimeWait tells the programs how long a jiffy is, and TIME_WAIT as far as is known.
func configureTimeWait(spec *ebpf.CollectionSpec, cfg Config) error {
	if err := spec.Variables["tick_ns"].Set(uint64(clock.Jiffy())); err != nil {
		return fmt.Errorf("set tick_ns: %w", err)
	}
	if err := spec.Variables["timewait_jiffies"].Set(uint64(cfg.TimeWaitLength / clock.Jiffy())); err != nil {
		return fmt.Errorf("set timewait_jiffies: %w", err)
	}
	return nil
}

// tellCulprits tells the programs where those functions are. The error says why TIME_WAIT
// cannot be seen.
func (t *Tracer) tellCulprits(types *Types) error {
	found, err := types.culprits()
	if err != nil {
		return err
	}
	if len(found[timerHandler]) != 1 {
		return fmt.Errorf("/proc/kallsyms has %d times %s", len(found[timerHandler]), timerHandler)
	}
	var list [maxCulprits]culprit
	n := 0
	for name, where := range found {
		for _, e := range where {
			if n == maxCulprits {
				return fmt.Errorf("/proc/kallsyms has more than %d of the functions looked for", maxCulprits)
			}
			list[n] = culprit{e.begin, e.end, uint64(culprits[name])}
			n++
		}
	}
	for name, value := range map[string]any{
		"tw_timer_handler": found[timerHandler][0].begin,
		"culprits":         list,
		"culprits_n":       uint32(n),
	} {
		if err := t.coll.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// attachTimeWait chooses how mini-sockets are seen: fentry where it loads and
// attaches, else the timer tracepoints, else (or for the reason that cannot is)
// not at all.
func (t *Tracer) attachTimeWait(spec *ebpf.CollectionSpec, cfg Config) {
	hook := Hook{Gives: GivesTimeWait}
	types, cannot := cfg.Types, errNoTimeWait
	if !cfg.NoTimeWait {
		cannot = t.tellCulprits(types)
	}
	switch {
	case cannot != nil:
		hook.Why, hook.Err = cannot.Error(), cannot
	default:
		refused := t.attachAll(spec, types, "twsk_alloc", "twsk_schedule", "twsk_kill")
		if refused == nil {
			hook.Program = "fentry/inet_twsk_kill"
			break
		}
		hook.Why = "fentry: " + refused.Error()
		if err := t.attachAll(spec, types, "timer_start", "timer_cancel", "timer_expire_entry"); err != nil {
			hook.Why += "; timer tracepoints: " + err.Error()
			break
		}
		t.looksForMoves = true
		hook.Program = "tp_btf/timer_start"
	}
	t.hooks = append(t.hooks, hook)
}

// attachAll attaches all of these programs or none.
func (t *Tracer) attachAll(spec *ebpf.CollectionSpec, types *Types, names ...string) error {
	coll, err := t.loadMore(spec, types, names...)
	if err != nil {
		return err
	}
	var links []link.Link
	for _, name := range names {
		l, err := link.AttachTracing(link.TracingOptions{Program: coll.Programs[name]})
		if err != nil {
			for _, l := range links {
				l.Close()
			}
			coll.Close()
			return plain("attach "+name, err)
		}
		links = append(links, l)
	}
	t.links = append(t.links, links...)
	t.timewait = coll
	return t.coll.Variables["sees_minis"].Set(true)
}

// LookForMoves tells the moves FIN_WAIT2→TIME_WAIT of orphans that made no sound: a
// timer that is moved within its wheel bucket fires no tracepoint. Only the timer
// hooks need it; with the others, and without such orphans, it does nothing. Their
// rows come through the ring.
func (t *Tracer) LookForMoves() error {
	if !t.looksForMoves {
		return nil
	}
	var cookie, address uint64
	any := t.coll.Maps["halfway"].Iterate().Next(&cookie, &address)
	t.busy.Store(any)
	if any {
		return walk(t.moves, 1, func([]byte) error { return nil })
	}
	return nil
}
