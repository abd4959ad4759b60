// SPDX-License-Identifier: Apache-2.0

// Package site names the place in its program where a socket was made: from the addresses
// that the kernel side told, or from a slice of the stack, to functions, files and lines.
package site

import (
	"strings"
	"time"

	"afterfin/internal/event"
	"afterfin/internal/symbol"
)

// How tells how the callers were found.
type How uint8

// ByFramePointers: as far as the program keeps them; the chain may end early. ByUnwinding: by
// the call frame information of its files, from registers and a copy of the stack.
const (
	ByFramePointers How = iota
	ByUnwinding
)

// String is the word used in every view.
func (h How) String() string {
	if h == ByUnwinding {
		return "unwinding"
	}
	return "frame_pointers"
}

// Site is a place where sockets are made. Sockets made there share it, and nobody changes it.
type Site struct {
	PID    int
	Start  time.Duration // CLOCK_BOOTTIME of the process
	Call   event.Side    // connect() or accept()
	How    How
	Stack  []uint64       // addresses in the process, innermost first
	Frames []symbol.Frame // innermost first; nil: see Note
	Note   string         // why there are no frames, or why they end; often empty
}

// Named is the place of the frame to name first: the innermost that is neither of the C
// library nor of the language's own. false if all are; then the innermost that has a
// function is the next best, in Go that of a package above net.
func (s *Site) Named() (at int, own bool) {
	at = -1
	for i := range s.Frames {
		f := &s.Frames[i]
		if f.Quality < symbol.Symbol {
			continue
		}
		if !ofRuntime(f) {
			return i, true
		}
		if at < 0 || plumbing(&s.Frames[at]) && ofGoSource(f) && !plumbing(f) {
			at = i
		}
	}
	return max(at, 0), false
}

// Key tells the sites of one process apart as a reader does: by the place that is named.
type Key struct {
	Call           event.Side
	Function, File string
	Line           int
	Address        uint64 // where there is no line
}

// Key is the one of this site.
func (s *Site) Key() Key {
	key := Key{Call: s.Call}
	if len(s.Frames) == 0 {
		if len(s.Stack) > 0 {
			key.Address = s.Stack[0]
		}
		return key
	}
	at, _ := s.Named()
	f := &s.Frames[at]
	key.Function, key.File, key.Line = f.Function, f.File, f.Line
	if f.Line == 0 {
		key.Address = f.Offset
	}
	return key
}

// Final: to look more closely would tell no more.
func (s *Site) Final() bool {
	language, _ := s.Interpreted()
	return s.Sure() || s.How == ByUnwinding && language != ""
}

// Sure: nobody is missing between the named frame and the system call. Frame pointers are
// sure in Go; elsewhere they pass over whoever has not set up its frame, or has none. Of an
// interpreter's own frames none is: the script's are missing.
func (s *Site) Sure() bool {
	if s.How == ByUnwinding {
		_, own := s.Named()
		language, _ := s.Interpreted()
		return own || language == "" && s.Note == "" && len(s.Frames) > 0
	}
	return len(s.Frames) > 0 && (strings.HasSuffix(s.Frames[0].File, ".s") || strings.HasSuffix(s.Frames[0].File, ".go"))
}
