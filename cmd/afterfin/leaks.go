// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"afterfin/internal/advice"
	"afterfin/internal/event"
	"afterfin/internal/feed"
	"afterfin/internal/leak"
	"afterfin/internal/netns"
	"afterfin/internal/owner"
	"afterfin/internal/survey"
	"afterfin/internal/tcp"
	"afterfin/internal/view"
)

// ignoreFile is read if it is there: one rule on each line, as --ignore takes it.
const ignoreFile = "/etc/afterfin/ignore"

// confirmAfter is how long a descriptor must outlive its connection at least.
const confirmAfter = 200 * time.Millisecond

// leaksOptions are the flags of leaks, checked.
type leaksOptions struct {
	feed      feed.Config
	state     tcp.State
	olderThan time.Duration
	sample    time.Duration
	unit      string
	ignore    *leak.Ignore
	output    string
	failCount int           // -1: not asked for
	failAge   time.Duration // 0: not asked for
	deep      bool
	recorder  string      // socket of the flight recorder; empty: none is asked
	lost      *event.Lost // by it; nil: it was not asked
}

func leaksCommand(e env) *cobra.Command {
	var (
		filter     filterFlags
		o          leaksOptions
		rules      []string
		rulesFile  string
		failOver   string
		followThem bool
		every      time.Duration
	)
	cmd := &cobra.Command{
		Use:   "leaks",
		Short: "Say who leaks CLOSE_WAIT sockets: which process, which descriptors, since when, and why",
		Long: "Names each process that holds sockets in CLOSE_WAIT, where the peer has closed and the program\n" +
			"has not, with a verdict and the next step. One look at sock_diag and /proc, without BPF: works on\n" +
			"any kernel and, for one's own processes, without root. --follow keeps looking, with BPF: ages are\n" +
			"exact then, descriptors whose connection was reset are seen dying, and the line of code that made a\n" +
			"socket is named; for programs without frame pointers by --deep.\n" +
			"Ages of sockets that were there before are bounds; \"2 s to 3m05s\" means somewhere between.",
		Example: "  afterfin leaks\n  afterfin leaks --fail-over 100 --ignore comm=worker,port=5432\n  afterfin leaks -o json | jq '.leaks[0].sockets[].fd'",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := checkOutput(o.output); err != nil {
				return err
			}
			var err error
			if o.feed, err = filter.parse(); err != nil {
				return err
			}
			if o.state, err = leakState(o.feed.Filter.States); err != nil {
				return err
			}
			if o.ignore, err = readIgnore(rulesFile, rules); err != nil {
				return err
			}
			if err := o.parseFailOver(failOver); err != nil {
				return err
			}
			if o.olderThan < 0 || o.sample < 0 || every <= 0 {
				return usage("durations are not negative, and --every is not 0")
			}
			if o.deep && !followThem {
				return usage("--deep is for what --follow sees being made")
			}
			if followThem {
				return followLeaks(e, &o, every)
			}
			return leaks(e, &o)
		},
	}
	flags := cmd.Flags()
	addOutput(cmd, &o.output)
	filter.register(flags)
	flags.Lookup("state").Usage = "close-wait (default), or fin-wait-2: our descriptor is open, the peer does not close"
	flags.StringVar(&o.unit, "unit", "", "only processes of this systemd unit")
	flags.DurationVar(&o.olderThan, "older-than", 10*time.Second, "only sockets that may be as old as this")
	flags.DurationVar(&o.sample, "sample", 0, "look twice, this long apart, for the growth; without, it is told from ages")
	flags.StringVar(&failOver, "fail-over", "", "exit 3 if there are more leaks than this number, or one is proven older than this duration; pools do not count")
	flags.StringArrayVar(&rules, "ignore", nil, "leave out what is known: comm=NAME, remote=ADDRESS[/BITS][:PORT], port=N, comma-separated if all must hold; may be given again")
	flags.StringVar(&rulesFile, "ignore-file", "", "read such rules from this file, one a line (default "+ignoreFile+", if it is there)")
	flags.BoolVar(&followThem, "follow", false, "keep looking, with BPF, and report anew; needs the privileges of watch")
	flags.BoolVar(&o.deep, "deep", false, "with --follow: unwind the stacks of processes that leak, for programs without frame pointers; costs are printed")
	addRecorder(flags, &o.recorder)
	flags.DurationVar(&every, "every", 10*time.Second, "with --follow: time between reports")
	return cmd
}

func leakState(states tcp.StateSet) (tcp.State, error) {
	switch states {
	case 0, 1 << tcp.CloseWait:
		return tcp.CloseWait, nil
	case 1 << tcp.FinWait2:
		return tcp.FinWait2, nil
	}
	return 0, usage("--state: leaks is about close-wait or fin-wait-2, one of them")
}

func readIgnore(path string, rules []string) (*leak.Ignore, error) {
	ignore := &leak.Ignore{}
	for _, text := range rules {
		if err := ignore.Add(text); err != nil {
			return nil, usage("--ignore: %w", err)
		}
	}
	asked := path != ""
	if !asked {
		path = ignoreFile
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) && !asked {
		return ignore, nil
	}
	if err != nil {
		return nil, usage("--ignore-file: %w", err)
	}
	defer f.Close()
	if err := ignore.Read(f); err != nil {
		return nil, usage("%s: %w", path, err)
	}
	return ignore, nil
}

func (o *leaksOptions) parseFailOver(text string) error {
	o.failCount = -1
	if text == "" {
		return nil
	}
	if n, err := strconv.Atoi(text); err == nil && n >= 0 {
		o.failCount = n
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return usage("--fail-over: %q is neither a number nor a duration like 5m", text)
	}
	o.failAge = d
	return nil
}

// leaks looks once, or twice for --sample.
func leaks(e env, o *leaksOptions) error {
	complete := o.recorded(e)
	r, s, err := o.look(complete)
	if err != nil {
		return err
	}
	if o.sample > 0 {
		begin := time.Now()
		select {
		case <-time.After(o.sample):
		case <-e.ctx.Done(): // what there is, is told
		}
		before, apart := r.Groups, time.Since(begin)
		if r, s, err = o.look(complete); err != nil {
			return err
		}
		leak.Sample(r.Groups, before, apart)
	}
	foot := leakFoot(s)
	foot.Lost = o.lost
	if err := o.write(e, r, foot); err != nil && !errors.Is(err, syscall.EPIPE) {
		return err
	}
	return o.threshold(r)
}

// completer adds to a look what was seen while the sockets came to be as they are, and says how
// they were seen.
type completer func(*leak.Found) (leak.Seen, error)

// look makes a report of what is there now, completed by what was seen before, if anything was.
func (o *leaksOptions) look(complete completer) (*leak.Report, *survey.Survey, error) {
	cfg := survey.Config{State: o.state, NetNS: netns.NS{Inode: o.feed.Filter.NetNS, Path: o.feed.NetNSPath}}
	if o.state == tcp.CloseWait { // the report of another state has no dead descriptors
		cfg.Confirm = min(confirmAfter, o.olderThan)
	}
	s, err := survey.Look(cfg)
	if err != nil {
		return nil, nil, lookFailed(err)
	}
	var seen leak.Seen
	if complete != nil {
		if seen, err = complete(&s.Found); err != nil {
			return nil, nil, &failure{code: exitRuntime, err: err}
		}
	}
	s.Sockets = slices.DeleteFunc(s.Sockets, func(c leak.Socket) bool { return !o.feed.Filter.MatchExisting(&c.Existing) })
	s.Strays = slices.DeleteFunc(s.Strays, func(d owner.Stray) bool { return d.Known && !o.matchesStray(&d) })
	r := leak.Make(&s.Found, o.state, o.olderThan, o.ignore)
	r.Groups = slices.DeleteFunc(r.Groups, func(g leak.Group) bool { return !o.matches(&g) })
	r.Parents, r.Seen = parents(r), seen
	return r, s, nil
}

// leakFoot is what a report says beside its leaks.
func leakFoot(s *survey.Survey) view.LeakFoot {
	return view.LeakFoot{
		NetNS: s.NetNS, Unreachable: s.Unreachable, Unreadable: s.Unreadable,
		LastAck: s.States[tcp.LastAck], Orphans: s.Orphans.Count, MaxOrphans: s.Orphans.Max,
		Advice: advice.For(&advice.Facts{Where: "the host", Orphans: max(0, s.Orphans.Count), MaxOrphans: s.Orphans.Max}),
	}
}

// matchesStray: the netns was sorted out by survey, as far as it is known.
func (o *leaksOptions) matchesStray(d *owner.Stray) bool {
	return o.feed.Filter.MatchExisting(&event.Existing{NetNS: o.feed.Filter.NetNS, Tuple: tcp.Tuple{Local: d.Local, Remote: d.Remote}})
}

// matches applies the filters that are about processes.
func (o *leaksOptions) matches(g *leak.Group) bool {
	f, p := &o.feed.Filter, g.Process
	if !f.WantsOwner() && o.unit == "" {
		return true
	}
	return p != nil && (len(f.PIDs) == 0 || slices.Contains(f.PIDs, uint32(p.PID))) &&
		(f.Comm == "" || p.Comm == f.Comm) && (o.unit == "" || p.Unit == o.unit)
}

// parents are looked up for what may be inherited from them.
func parents(r *leak.Report) map[int]*owner.Process {
	found := make(map[int]*owner.Process)
	for i := range r.Groups {
		p := r.Groups[i].Process
		if p == nil || found[p.PPID] != nil {
			continue
		}
		if !slices.ContainsFunc(r.Groups[i].Leaks, func(l leak.Leak) bool { return l.Inherited }) {
			continue
		}
		if parent, err := owner.ProcessOf(p.PPID); err == nil { // else it has ended, or may not be read
			found[p.PPID] = parent
		}
	}
	return found
}

func (o *leaksOptions) write(e env, r *leak.Report, foot view.LeakFoot) error {
	var err error
	if o.output == "json" {
		err = view.WriteLeaksJSON(e.stdout, r, foot, time.Now())
	} else {
		err = view.WriteLeaks(e.stdout, r, foot)
	}
	if err != nil {
		return &failure{code: exitRuntime, err: err}
	}
	return nil
}

// threshold is the error for --fail-over.
func (o *leaksOptions) threshold(r *leak.Report) error {
	if n := r.Total(); o.failCount >= 0 && n > o.failCount {
		return &failure{code: exitThreshold, err: fmt.Errorf("%d leaks, more than %d", n, o.failCount)}
	}
	if d := r.Oldest(); o.failAge > 0 && d > o.failAge {
		return &failure{code: exitThreshold, err: fmt.Errorf("a leak is at least %s old, more than %s", view.Duration(d), view.Duration(o.failAge))}
	}
	return nil
}
