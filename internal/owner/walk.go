// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"bytes"
	"cmp"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// walk is the state of one Find.
type walk struct {
	*finder
	wanted, listed map[uint64]bool
	scan           *Scan
	others         []other
	processes      map[int]*Process // of which something was found, by pid
	link           [64]byte         // longer than the links that count, which are socket:[N] and the ring's
}

// other is a socket that nobody asked for; it may be a Unix socket.
type other struct{ pid, fd int }

// ours is what was found among the descriptors of one process.
type ours struct {
	holders, fixed []holding
	strays         []Stray
	rings          []Carrier
}

// holding is a descriptor that keeps a socket.
type holding struct {
	inode uint64
	fd    int
}

func (o *ours) empty() bool {
	return len(o.holders)+len(o.fixed)+len(o.strays)+len(o.rings) == 0
}

func (f *finder) find(wanted, listed map[uint64]bool) (*Scan, error) {
	proc, err := os.Open(f.proc)
	if err != nil {
		return nil, err
	}
	names, err := proc.Readdirnames(-1)
	proc.Close()
	if err != nil {
		return nil, err
	}
	w := &walk{
		finder: f, wanted: wanted, listed: listed,
		scan:      &Scan{Holders: map[uint64][]Holder{}, Fixed: map[uint64][]Holder{}},
		processes: map[int]*Process{},
	}
	for _, name := range names {
		if pid, err := strconv.ParseUint(name, 10, 31); err == nil {
			w.visit(int(pid))
		}
	}
	if w.incomplete() {
		w.findCarriers()
	}
	w.sort()
	return w.scan, nil
}

// incomplete tells that a socket is still not found.
func (w *walk) incomplete() bool {
	for inode := range w.wanted {
		if len(w.scan.Holders[inode])+len(w.scan.Fixed[inode]) == 0 {
			return true
		}
	}
	return false
}

// visit looks through the descriptors of one process.
func (w *walk) visit(pid int) {
	p, err := w.open(pid)
	if err != nil {
		return // it has ended
	}
	defer p.close()
	dir, names, err := p.descriptors()
	if err == nil {
		defer dir.Close()
		seen := len(w.others)
		if err = w.look(p, dir, names); err != nil {
			w.others = w.others[:seen]
		}
	}
	if err != nil && !gone(err) && !w.isKernelThread(p) {
		w.scan.Unreadable++
	}
}

// look reads the links and, if one of them counts, keeps all and the process.
func (w *walk) look(p process, dir *os.File, names []string) error {
	var found ours
	asker := asker{pid: p.pid, pidfd: -1}
	defer asker.close()
	folder := int(dir.Fd())
	for _, name := range names {
		n, err := unix.Readlinkat(folder, name, w.link[:])
		if gone(err) {
			continue // closed meanwhile, or the process has ended
		}
		if err != nil {
			return err
		}
		fd, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		target := w.link[:n]
		if string(target) == ringLink {
			w.addRing(&found, p, fd)
			continue
		}
		inode, ok := parseSocket(target)
		switch {
		case !ok:
		case w.wanted[inode]:
			found.holders = append(found.holders, holding{inode, fd})
		case w.listed[inode]:
		case w.listed != nil && isTCP(p, name):
			if stray, ok := asker.ask(fd, inode); ok {
				found.strays = append(found.strays, stray)
			}
		default:
			w.others = append(w.others, other{p.pid, fd})
		}
	}
	if found.empty() {
		return nil
	}
	owner, err := w.known(p, len(names))
	if err != nil {
		return err
	}
	w.keep(owner, &found)
	return nil
}

// known is describe that gives the same answer again for the same process.
func (w *walk) known(p process, fds int) (*Process, error) {
	owner, err := w.describe(p, fds)
	if err != nil {
		return nil, err
	}
	if before := w.processes[p.pid]; before != nil && before.Start == owner.Start {
		return before, nil
	}
	w.processes[p.pid] = owner
	return owner, nil
}

// keep adds what was found to the scan.
func (w *walk) keep(owner *Process, found *ours) {
	for _, h := range found.holders {
		w.scan.Holders[h.inode] = append(w.scan.Holders[h.inode], Holder{owner, h.fd})
	}
	for _, h := range found.fixed {
		w.scan.Fixed[h.inode] = append(w.scan.Fixed[h.inode], Holder{owner, h.fd})
	}
	for _, s := range found.strays {
		s.Process = owner
		w.scan.Strays = append(w.scan.Strays, s)
	}
	for _, r := range found.rings {
		r.Process = owner
		w.scan.Rings = append(w.scan.Rings, r)
	}
}

// sort does not rely on the order in which the kernel lists, which is this one.
func (w *walk) sort() {
	for _, byInode := range []map[uint64][]Holder{w.scan.Holders, w.scan.Fixed} {
		for _, holders := range byInode {
			slices.SortFunc(holders, Holder.compare)
		}
	}
	carriers := func(a, b Carrier) int { return a.compare(b.Holder) }
	slices.SortFunc(w.scan.Rings, carriers)
	slices.SortFunc(w.scan.Carriers, carriers)
	slices.SortFunc(w.scan.Strays, func(a, b Stray) int { return a.compare(b.Holder) })
}

func (h Holder) compare(other Holder) int {
	return cmp.Or(cmp.Compare(h.Process.PID, other.Process.PID), cmp.Compare(h.FD, other.FD))
}

// parseSocket reads the link of a socket, socket:[123].
func parseSocket(link []byte) (inode uint64, ok bool) {
	digits, ok := bytes.CutPrefix(link, []byte("socket:["))
	if !ok {
		return 0, false
	}
	if digits, ok = bytes.CutSuffix(digits, []byte("]")); !ok || len(digits) == 0 || len(digits) > 19 {
		return 0, false
	}
	for _, digit := range digits {
		if digit < '0' || digit > '9' {
			return 0, false
		}
		inode = inode*10 + uint64(digit-'0')
	}
	return inode, true
}
