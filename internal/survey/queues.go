// SPDX-License-Identifier: Apache-2.0

package survey

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"
	"strconv"

	"afterfin/internal/advice"
	"afterfin/internal/event"
	"afterfin/internal/netns"
	"afterfin/internal/owner"
	"afterfin/internal/sockdiag"
	"afterfin/internal/tcp"
)

// Queues gives the listeners of a netns whose accept queue takes no more, the longest first, and
// net.core.somaxconn. Errors are those of sockdiag.Dump and of netns.Do.
func Queues(ns netns.NS) (full []advice.Queue, most int, err error) {
	err = netns.Do(ns, func() error {
		if most, err = sysctl("net.core.somaxconn"); err != nil {
			return err
		}
		return sockdiag.Dump(1<<tcp.Listen, func(e *event.Existing) {
			if q := (advice.Queue{Local: e.Tuple.Local, Waiting: int(e.RecvQ), Backlog: int(e.SendQ)}); q.Full() {
				full = append(full, q)
			}
		})
	})
	slices.SortFunc(full, func(a, b advice.Queue) int { return cmp.Compare(b.Waiting, a.Waiting) })
	return full, most, err
}

// Files gives the processes that are close to their limit of descriptors, the closest first.
// Those that may not be read are left out, and counted.
func Files() (found []advice.Files, unreadable int, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, 0, fmt.Errorf("list processes: %w", err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		p, err := owner.ProcessOf(pid)
		switch {
		case errors.Is(err, fs.ErrNotExist): // it has ended
		case err != nil || p.FDs == 0 && len(p.Cmdline) > 0: // a kernel thread has neither
			unreadable++
		case p.FDLimit != math.MaxUint64:
			if f := (advice.Files{PID: pid, Comm: p.Comm, Used: p.FDs, Limit: p.FDLimit}); f.CloseToLimit() {
				found = append(found, f)
			}
		}
	}
	slices.SortFunc(found, func(a, b advice.Files) int {
		return cmp.Compare(float64(b.Used)/float64(b.Limit), float64(a.Used)/float64(a.Limit))
	})
	return found, unreadable, nil
}
