// SPDX-License-Identifier: Apache-2.0

package view

import "io"

// output gathers lines and writes them in large pieces. After the first error of
// the writer it drops what comes.
type output struct {
	w   io.Writer
	buf []byte // views append a line to it and hand it back to line
	err error
}

const piece = 64 << 10

func newOutput(w io.Writer) output { return output{w: w, buf: make([]byte, 0, piece+4<<10)} }

// line takes the buffer back with one more line, its newline still missing.
func (o *output) line(b []byte) {
	o.buf = append(b, '\n')
	if len(o.buf) >= piece {
		_ = o.Flush() // the last Flush tells
	}
}

// Flush writes what waits and returns the first error of the writer.
func (o *output) Flush() error {
	if o.err == nil && len(o.buf) > 0 {
		_, o.err = o.w.Write(o.buf)
	}
	o.buf = o.buf[:0]
	return o.err
}
