// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"os"
	"strconv"
	"strings"
)

// ringLink is what the descriptor of an io_uring links to.
const ringLink = "anon_inode:[io_uring]"

// fdinfo reads what the kernel tells about a descriptor.
func (p process) fdinfo(fd int) (string, error) {
	text, err := os.ReadFile(p.path + "/fdinfo/" + strconv.Itoa(fd))
	return string(text), err
}

// ringTries is how often a ring is read that shows no files: the kernel leaves
// them out while the ring is in use (it only tries to lock it).
const ringTries = 5

// addRing looks at the files that are registered with an io_uring.
func (w *walk) addRing(found *ours, p process, fd int) {
	for range ringTries {
		text, err := p.fdinfo(fd)
		if err != nil {
			return // closed meanwhile
		}
		inodes, unnamed, complete := parseRing(text)
		if !complete {
			continue
		}
		for _, inode := range inodes {
			if w.wanted[inode] {
				found.fixed = append(found.fixed, holding{inode, fd})
			}
		}
		if unnamed > 0 {
			found.rings = append(found.rings, Carrier{Holder{FD: fd}, unnamed})
		}
		return
	}
}

// parseRing reads the fdinfo of an io_uring (io_uring/fdinfo.c):
//
//	UserFiles:	2
//	    0: socket:[123]
//	    1: /tmp/file
//
// Before Linux 6.14 (commit 561e3a0c40dc) there is the name that the kernel keeps
// inside: that of a socket is its protocol's, TCP or TCPv6, and that of a file has
// no folder. An empty place was written as <none>. complete is false if the kernel
// could not look.
func parseRing(text string) (inodes []uint64, unnamed int, complete bool) {
	_, files, shown := strings.Cut(text, "\nUserFiles:\t")
	if !shown {
		return nil, 0, false
	}
	count, files, _ := strings.Cut(files, "\n")
	lines := 0
	for line := range strings.Lines(files) {
		index, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		if _, err := strconv.ParseUint(strings.TrimLeft(index, " "), 10, 32); !ok || err != nil {
			break // the next heading
		}
		lines++
		if inode, ok := parseSocket([]byte(name)); ok {
			inodes = append(inodes, inode)
		} else if tcpProtocol(name) {
			unnamed++
		}
	}
	return inodes, unnamed, lines > 0 || count == "0"
}

// findCarriers looks at all sockets that nobody asked for, process by process.
func (w *walk) findCarriers() {
	for rest := w.others; len(rest) > 0; {
		pid, n := rest[0].pid, 1
		for n < len(rest) && rest[n].pid == pid {
			n++
		}
		w.addCarriers(pid, rest[:n])
		rest = rest[n:]
	}
}

func (w *walk) addCarriers(pid int, sockets []other) {
	p, err := w.open(pid)
	if err != nil {
		return // it has ended
	}
	defer p.close()
	var found []Carrier
	for _, o := range sockets {
		text, err := p.fdinfo(o.fd)
		if err != nil {
			continue // closed meanwhile
		}
		if count := parseInFlight(text); count > 0 {
			found = append(found, Carrier{Holder{FD: o.fd}, count})
		}
	}
	if found == nil {
		return
	}
	dir, names, err := p.descriptors()
	if err != nil {
		return
	}
	defer dir.Close()
	owner, err := w.known(p, len(names))
	if err != nil {
		return
	}
	for _, c := range found {
		c.Process = owner
		w.scan.Carriers = append(w.scan.Carriers, c)
	}
}

// parseInFlight reads the fdinfo of a Unix socket: how many descriptors wait in
// its receive queue (Linux 5.6, commit 3c32da19a858). 0 for all other files.
func parseInFlight(text string) int {
	_, digits, _ := strings.Cut(text, "\nscm_fds: ")
	digits, _, _ = strings.Cut(digits, "\n")
	count, err := strconv.ParseUint(digits, 10, 31)
	if err != nil {
		return 0
	}
	return int(count)
}
