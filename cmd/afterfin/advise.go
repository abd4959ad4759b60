// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io/fs"
	"time"

	"afterfin/internal/advice"
	"afterfin/internal/doctor"
	"afterfin/internal/event"
	"afterfin/internal/feed"
	"afterfin/internal/netns"
	"afterfin/internal/survey"
	"afterfin/internal/timewait"
	"afterfin/internal/view"
)

// timeWaitFacts are what a census knows of a netns.
func timeWaitFacts(s *timewait.Space) *advice.Facts {
	f := &advice.Facts{Where: view.SpaceName(s.Path, s.NetNS)}
	addTimeWaits(f, s)
	return f
}

func addTimeWaits(f *advice.Facts, s *timewait.Space) {
	f.TimeWaits, f.Halfway, f.FinTimeout, f.RFC1337 = s.Live, s.Halfway, s.FinTimeout, s.RFC1337
	f.MaxTimeWaits = max(0, s.Max)
}

// addSampled adds what a sample has shown of TIME_WAIT in a netns.
func addSampled(f *advice.Facts, before, now *timewait.Now, c *event.Counts, s *timewait.Space, took time.Duration) {
	f.While, f.Overflows = took, before.Overflowed(now, s.NetNS)
	if tally := c.Tallies[s.NetNS]; tally != nil {
		f.Resets = tally.Ended[event.CauseReset]
	}
}

// advise is doctor --advise: what ports looks at, and all else that a setting is about.
func advise(e env, cfg feed.Config, output string, sample time.Duration) error {
	cfg.Counts, cfg.Ports = true, true
	p := &porter{env: e, cfg: cfg, sample: sample, all: true}
	if err := p.collect(func() error { return nil }); err != nil {
		return err
	}
	r := &view.Advised{Took: p.report.Took, Unreachable: p.report.Unreachable, Lost: p.report.Lost}
	err := p.advise(r)
	switch {
	case err != nil:
		return &failure{code: exitRuntime, err: err}
	case output == "json":
		err = view.WriteAdviceJSON(e.stdout, doctor.Run(), r)
	default:
		err = view.WriteAdvice(e.stdout, r)
	}
	if err = pipeGone(err); err != nil {
		return &failure{code: exitRuntime, err: err}
	}
	return nil
}

// advise completes a report.
func (p *porter) advise(r *view.Advised) (err error) {
	for _, s := range p.report.Spaces {
		f := p.facts(s)
		if w := p.now.Space(s.NetNS); w != nil {
			addTimeWaits(f, w)
			if p.before != nil {
				addSampled(f, p.before, p.now, p.counts, w, p.report.Took)
			}
		}
		f.Queues, f.Somaxconn, err = survey.Queues(netns.NS{Inode: s.NetNS, Path: s.Path})
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // it died since
			return err
		}
		r.List = append(r.List, advice.For(f)...)
	}
	orphans, err := survey.HostOrphans()
	if err != nil {
		return err
	}
	host := &advice.Facts{Where: "the host", Orphans: max(0, orphans.Count), MaxOrphans: orphans.Max}
	if host.Files, r.Unreadable, err = survey.Files(); err != nil {
		return err
	}
	r.List = append(r.List, advice.For(host)...)
	return nil
}
