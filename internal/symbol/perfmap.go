// SPDX-License-Identifier: Apache-2.0

package symbol

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"afterfin/internal/image"
)

const (
	maxPerfMap     = 64 << 20 // bytes of a perf map
	maxPerfEntries = 1 << 20
	maxStatus      = 64 << 10 // bytes of /proc/PID/status
)

// perfMap is what a program with a JIT compiler says of the code it has written:
// /tmp/perf-PID.map, as perf reads it.
type perfMap struct{ entries []perfEntry }

type perfEntry struct {
	begin, end uint64
	name       string
}

// readPerfMap reads that of a process. The error wraps fs.ErrNotExist if there is
// none. The folder is open to all, so only a file of the process's own user or of
// root counts, and no link.
func readPerfMap(ctx context.Context, img *image.Image, pid int) (*perfMap, error) {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return nil, fmt.Errorf("read perf map: %w", err)
	}
	inner, uid, err := parseStatus(status)
	if err != nil {
		return nil, fmt.Errorf("read perf map: %w", err)
	}
	return openPerfMap(ctx, img, fmt.Sprintf("/tmp/perf-%d.map", inner), uid)
}

func openPerfMap(ctx context.Context, img *image.Image, path string, uid uint32) (*perfMap, error) {
	file, err := img.OpenInRoot(path, true)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return nil, fmt.Errorf("stat %s: %w", path, err)
	}
	if stat.Uid != uid && stat.Uid != 0 {
		return nil, fmt.Errorf("%s belongs to another user (%d)", path, stat.Uid)
	}
	if stat.Size > maxPerfMap {
		return nil, fmt.Errorf("%s has %d bytes: %w", path, stat.Size, image.ErrTooLarge)
	}
	data := make([]byte, stat.Size) // what is written from now on is for the next stack
	n, err := file.ReadAt(data, 0)
	if n == 0 && err != nil && stat.Size > 0 {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return parsePerfMap(ctx, data[:n])
}

// parseStatus gives the pid of a process in its own pid namespace, which is the name
// it writes, and its effective user. See proc_pid_status(5).
func parseStatus(status []byte) (pid int, uid uint32, err error) {
	if len(status) > maxStatus {
		return 0, 0, image.ErrTooLarge
	}
	var pidErr, uidErr error = fs.ErrNotExist, fs.ErrNotExist
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(line, ":")
		fields := strings.Fields(value)
		switch {
		case key == "NSpid" && len(fields) > 0:
			pid, pidErr = strconv.Atoi(fields[len(fields)-1])
		case key == "Uid" && len(fields) > 1:
			var n uint64
			n, uidErr = strconv.ParseUint(fields[1], 10, 32)
			uid = uint32(n)
		}
	}
	return pid, uid, errors.Join(pidErr, uidErr)
}

// parsePerfMap reads lines of begin, size (hexadecimal) and name, which ends with
// the line. Lines that are not so are left out: the last one may be half written.
// Where code was overwritten by other code the later line counts.
func parsePerfMap(ctx context.Context, data []byte) (*perfMap, error) {
	p := &perfMap{}
	for len(data) > 0 && len(p.entries) < maxPerfEntries {
		if len(p.entries)%4096 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		end := bytes.IndexByte(data, '\n')
		if end < 0 {
			break
		}
		if entry, ok := parsePerfEntry(data[:end]); ok {
			p.entries = append(p.entries, entry)
		}
		data = data[end+1:]
	}
	slices.Reverse(p.entries) // so that of those that begin alike the later is first
	slices.SortStableFunc(p.entries, func(a, b perfEntry) int { return cmp.Compare(a.begin, b.begin) })
	return p, nil
}

func parsePerfEntry(line []byte) (perfEntry, bool) {
	begin, rest, _ := strings.Cut(bounded(string(line[:min(len(line), maxName)])), " ")
	size, name, named := strings.Cut(rest, " ")
	first, err := strconv.ParseUint(strings.TrimPrefix(begin, "0x"), 16, 64)
	if err != nil {
		return perfEntry{}, false
	}
	length, err := strconv.ParseUint(strings.TrimPrefix(size, "0x"), 16, 64)
	if err != nil || !named || name == "" || length == 0 || first+length < first {
		return perfEntry{}, false
	}
	return perfEntry{first, first + length, name}, true
}

// find gives the name of the code at an address: of the entries that cover it the
// one that begins last.
func (p *perfMap) find(address uint64) (name string, ok bool) {
	const maxBack = 64 // entries of code since overwritten may lie between
	i := sort.Search(len(p.entries), func(i int) bool { return p.entries[i].begin > address }) - 1
	for back := 0; i >= 0 && back < maxBack; i, back = i-1, back+1 {
		// Those that begin alike are newest first, and are met oldest first here.
		first := i
		for first > 0 && i-first < maxBack && p.entries[first-1].begin == p.entries[i].begin {
			first--
		}
		for ; first <= i; first++ {
			if e := p.entries[first]; address < e.end {
				return e.name, true
			}
		}
	}
	return "", false
}

// splitPerfName takes the names of Python and of Node apart:
//
//	py::fetch:/srv/app.py
//	JS:*fetch /srv/app.js:12:15
//
// The line is that where the function begins, 0 if it is not told.
func splitPerfName(name string) (function, file string, line int) {
	if rest, ok := strings.CutPrefix(name, "py::"); ok {
		if function, file, ok = strings.Cut(rest, ":"); ok && function != "" {
			return function, file, 0
		}
		return name, "", 0
	}
	for _, kind := range [...]string{"JS:", "LazyCompile:", "Function:"} {
		rest, ok := strings.CutPrefix(name, kind)
		if !ok {
			continue
		}
		// ~ is interpreted, the others are compilers.
		function, place, ok := strings.Cut(strings.TrimLeft(rest, "~^+*="), " ")
		file, _, column := cutNumber(place)
		file, line, number := cutNumber(file)
		if !ok || !column || !number {
			break
		}
		if function == "" {
			function = "(anonymous)"
		}
		return function, strings.TrimPrefix(file, "file://"), line
	}
	return name, "", 0
}

// cutNumber cuts a colon and a number off the end.
func cutNumber(text string) (rest string, number int, ok bool) {
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return text, 0, false
	}
	n, err := strconv.ParseUint(text[i+1:], 10, 31)
	if err != nil {
		return text, 0, false
	}
	return text[:i], int(n), true
}
