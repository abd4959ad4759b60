// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrMalformed says that a file does not have the form it should.
var ErrMalformed = errors.New("malformed")

// parseMaps reads the text of /proc/PID/maps, see proc_pid_maps(5). The kernel
// writes mappings by rising address.
func parseMaps(text []byte) ([]Mapping, error) {
	var mappings []Mapping
	last := uint64(0)
	for line := range strings.Lines(string(text)) {
		m, ok := parseMapping(strings.TrimSuffix(line, "\n"))
		if !ok || m.Begin < last {
			return nil, fmt.Errorf("line %d of maps: %w", len(mappings)+1, ErrMalformed)
		}
		if len(mappings) == maxMappings {
			return nil, fmt.Errorf("more than %d mappings: %w", maxMappings, ErrTooLarge)
		}
		last = m.End
		mappings = append(mappings, m)
	}
	return mappings, nil
}

// parseMapping reads one line:
//
//	55d0c6a00000-55d0c6a21000 r-xp 00002000 fe:01 131337    /usr/bin/cat
func parseMapping(line string) (m Mapping, ok bool) {
	var fields [5]string
	rest := line
	for i := range fields {
		fields[i], rest, _ = strings.Cut(rest, " ")
	}
	begin, end, dashed := strings.Cut(fields[0], "-")
	major, minor, device := strings.Cut(fields[3], ":")
	if !dashed || !device || len(fields[1]) != 4 {
		return Mapping{}, false
	}
	ok = true
	number := func(text string, base, bits int) uint64 {
		n, err := strconv.ParseUint(text, base, bits)
		ok = ok && err == nil
		return n
	}
	m.Begin, m.End = number(begin, 16, 64), number(end, 16, 64)
	m.Executable = fields[1][2] == 'x'
	m.Offset = number(fields[2], 16, 64)
	m.Dev = unix.Mkdev(uint32(number(major, 16, 32)), uint32(number(minor, 16, 32)))
	m.Inode = number(fields[4], 10, 64)
	m.Path = strings.TrimLeft(rest, " ")
	if m.Inode != 0 {
		// The path is the only text here that is not the kernel's own. It writes a
		// line feed in it as \012, and no other sign differently.
		m.Path, m.Deleted = strings.CutSuffix(m.Path, " (deleted)")
		m.Path = strings.ReplaceAll(m.Path, `\012`, "\n")
	}
	return m, ok && m.Begin < m.End
}

// readAll reads at most limit bytes; one more is ErrTooLarge.
func readAll(ctx context.Context, r io.Reader, limit int64) ([]byte, error) {
	var data []byte
	chunk := make([]byte, 64<<10)
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n, err := r.Read(chunk)
		if int64(len(data)+n) > limit {
			return nil, fmt.Errorf("more than %d bytes: %w", limit, ErrTooLarge)
		}
		data = append(data, chunk[:n]...)
		switch {
		case errors.Is(err, io.EOF):
			return data, nil
		case err != nil:
			return nil, err
		}
	}
}
