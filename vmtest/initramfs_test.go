// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// entryOf reads one newc entry and gives what follows it.
func entryOf(t *testing.T, in []byte) (name string, mode int, content, rest []byte) {
	t.Helper()
	const header = 110
	field := func(i int) (n int) {
		t.Helper()
		if _, err := fmt.Sscanf(string(in[6+8*i:14+8*i]), "%x", &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if len(in) < header || string(in[:6]) != "070701" {
		t.Fatalf("no header: %q", in[:min(len(in), header)])
	}
	for _, i := range []int{2, 3, 5} { // owner, group, time
		if field(i) != 0 {
			t.Errorf("field %d is %d", i, field(i))
		}
	}
	up := func(n int) int { return (n + 3) &^ 3 }
	size, begin := field(6), up(header+field(11))
	name = string(in[header : header+field(11)-1])
	return name, field(1), in[begin : begin+size], in[up(begin+size):]
}

func TestPack(t *testing.T) {
	content := tree{"/init": []byte("12345"), "/tests/b/test": []byte("b"), "/tests/a/test": nil}
	packed := content.pack()
	var got []string
	for rest := packed; len(rest) > 0; {
		var name string
		var mode int
		var body []byte
		name, mode, body, rest = entryOf(t, rest)
		got = append(got, fmt.Sprintf("%s %o %q", name, mode, body))
	}
	want := []string{
		`dev 40755 ""`, `dev/console 20600 ""`, `init 100755 "12345"`,
		`tests 40755 ""`, `tests/a 40755 ""`, `tests/a/test 100755 ""`, `tests/b 40755 ""`, `tests/b/test 100755 "b"`,
		`TRAILER!!! 0 ""`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for range 10 { // maps have another order each time
		if !bytes.Equal(packed, content.pack()) {
			t.Fatal("the same tree gives other bytes")
		}
	}
}
