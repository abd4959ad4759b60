// SPDX-License-Identifier: Apache-2.0

package symbol

import (
	"bytes"

	"github.com/ianlancetaylor/demangle"
)

const maxName = 4096 // bytes of any text in a frame

// bounded cuts a text that is too long.
func bounded(text string) string { return text[:min(len(text), maxName)] }

// textAt is the text in a string table up to the next 0, cut if it is too long;
// empty if the offset is beyond the table.
func textAt(table []byte, offset uint64) string { return string(bytesAt(table, offset)) }

// bytesAt is the same in place.
func bytesAt(table []byte, offset uint64) []byte {
	if offset >= uint64(len(table)) {
		return nil
	}
	text := table[offset:]
	text = text[:min(len(text), maxName)]
	if end := bytes.IndexByte(text, 0); end >= 0 {
		text = text[:end]
	}
	return text
}

// demangled gives the name of a C++ or Rust function as its language writes it,
// without parameters; other names as they are.
func demangled(name string) string {
	const longest = 12 // MaxLength counts in powers of two
	plain, err := demangle.ToString(name, demangle.NoParams, demangle.MaxLength(longest))
	if err != nil {
		return name
	}
	return bounded(plain)
}
