// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
)

// ErrHidden: the kernel shows addresses to those with CAP_SYSLOG, and to nobody
// with kernel.kptr_restrict=2.
var ErrHidden = errors.New("/proc/kallsyms hides the kernel's addresses: CAP_SYSLOG, and kernel.kptr_restrict below 2")

// extent is where a function stands in kernel memory.
type extent struct{ begin, end uint64 }

// extents finds functions by their names, those with a suffix of the compiler's
// (.isra.0, .cold) too. Names that the kernel lacks are left out. The file has some
// 150,000 lines in the order of their addresses, so it is read once: a function
// ends where the next one begins.
func extents(names map[string]bool) (map[string][]extent, error) {
	f, err := os.Open("/proc/kallsyms")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	found := make(map[string][]extent)
	var open []string // those whose end is to come
	lines := bufio.NewScanner(f)
	lines.Buffer(make([]byte, 64<<10), 64<<10)
	for lines.Scan() {
		line := lines.Bytes()
		hex, rest, ok := bytes.Cut(line, []byte{' '})
		if !ok || len(rest) < 3 {
			continue
		}
		if open == nil && !candidate(rest[2:], names) {
			continue
		}
		at, err := strconv.ParseUint(string(hex), 16, 64)
		if err != nil {
			return nil, fmt.Errorf("read /proc/kallsyms: %w", err)
		}
		if at == 0 {
			return nil, ErrHidden
		}
		open = closeAt(found, open, at)
		if name := base(rest[2:]); names[string(name)] {
			found[string(name)] = append(found[string(name)], extent{begin: at})
			open = append(open, string(name))
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read /proc/kallsyms: %w", err)
	}
	return found, nil
}

// closeAt ends the open functions that begin below at.
func closeAt(found map[string][]extent, open []string, at uint64) []string {
	var still []string
	for _, name := range open {
		e := &found[name][len(found[name])-1]
		if e.begin < at {
			e.end = at
		} else {
			still = append(still, name)
		}
	}
	return still
}

// base is the name without the module and the compiler's suffix.
func base(name []byte) []byte {
	if i := bytes.IndexAny(name, ".\t"); i > 0 {
		return name[:i]
	}
	return name
}

func candidate(name []byte, names map[string]bool) bool { return names[string(base(name))] }
