// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
)

// Noise is a set of processes that have nothing to do with any socket and keep
// the CPUs busy. With it the process on the CPU is mostly the wrong one when a
// packet arrives.
type Noise struct{ actors []*Actor }

// StartNoise starts n such processes, all of the name "noise", in the netns of
// the caller's process. The caller stops them.
func StartNoise(n int) (*Noise, error) {
	noise := &Noise{}
	for range n {
		a, err := startActor(nil, "noise")
		if err != nil {
			return nil, errors.Join(fmt.Errorf("start noise: %w", err), noise.Stop())
		}
		noise.actors = append(noise.actors, a)
		a.send(request{Op: opSpin}) // it never answers
	}
	return noise, nil
}

// PIDs gives the ids of the processes.
func (n *Noise) PIDs() []int {
	var pids []int
	for _, a := range n.actors {
		pids = append(pids, a.pid)
	}
	return pids
}

// Stop ends them and waits for that.
func (n *Noise) Stop() error {
	var errs []error
	for _, a := range n.actors {
		errs = append(errs, a.Kill())
	}
	return errors.Join(errs...)
}
