// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"afterfin/internal/folklore"
)

// progress says on stderr, where somebody watches, what is still under way.
type progress struct {
	env   env
	begin time.Time

	mu     sync.Mutex
	claims []*folklore.Claim // under way
	drawn  int               // runes on the line
}

// start draws until the function that it gives is called.
func (p *progress) start() (stop func()) {
	if !p.env.watched {
		return func() {}
	}
	done := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				p.draw()
			case <-done:
				return
			}
		}
	})
	return func() {
		close(done)
		group.Wait()
		p.clear("")
	}
}

func (p *progress) left() []*folklore.Claim {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.claims
}

func (p *progress) draw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.claims) == 0 {
		return
	}
	var names []string
	for _, c := range p.claims {
		names = append(names, c.Name)
	}
	if len(names) > 4 {
		names = append(names[:4], fmt.Sprintf("%d more", len(names)-4))
	}
	left := max(0, folklore.Longest(p.claims)-time.Since(p.begin))
	line := fmt.Sprintf("trying %s: about %d s to go", strings.Join(names, ", "), int((left+time.Second-1)/time.Second))
	fmt.Fprintf(p.env.stderr, "\r%s%s", line, strings.Repeat(" ", max(0, p.drawn-len(line))))
	p.drawn = len(line)
}

// clear takes the line away, and a claim off it that is through.
func (p *progress) clear(through string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.claims = slices.DeleteFunc(p.claims, func(c *folklore.Claim) bool { return c.Name == through })
	if p.drawn > 0 {
		fmt.Fprintf(p.env.stderr, "\r%s\r", strings.Repeat(" ", p.drawn))
		p.drawn = 0
	}
}
