// SPDX-License-Identifier: Apache-2.0

package symbol

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"afterfin/internal/image"
)

func TestPerfMap(t *testing.T) {
	p, err := parsePerfMap(t.Context(), []byte(strings.Join([]string{
		"7f0000001000 100 py::fetch:/srv/app.py",
		"0x7f0000002000 0x10 JS:*get /srv/a b.js:12:15",
		"7f0000003000 100 old code",
		"7f0000003000 80 new code",
		"7f0000003040 10 JS:^ file:///srv/c.mjs:1:2",
		"",
		"no address",
		"7f0000004000 100",
		"7f0000004000 0 empty",
		"ffffffffffffff00 fff around the end",
		"10000000000000000 10 too large",
		"7f0000005000 100 " + strings.Repeat("x", 100_000),
		"7f0000006000 100 half a li",
	}, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		address        uint64
		function, file string
		line           int
	}{
		{0x7f0000000fff, "", "", 0},
		{0x7f0000001000, "fetch", "/srv/app.py", 0},
		{0x7f00000010ff, "fetch", "/srv/app.py", 0},
		{0x7f0000001100, "", "", 0},
		{0x7f000000200f, "get", "/srv/a b.js", 12},
		{0x7f0000003000, "new code", "", 0},
		{0x7f000000304f, "(anonymous)", "/srv/c.mjs", 1},
		{0x7f0000003050, "new code", "", 0},
		{0x7f0000003080, "old code", "", 0},
		{0x7f0000004000, "", "", 0},
		{0xffffffffffffff80, "", "", 0},
		{0x7f0000006000, "", "", 0},
	} {
		name, _ := p.find(c.address)
		function, file, line := splitPerfName(name)
		if function != c.function || file != c.file || line != c.line {
			t.Errorf("%#x is %q %q %d, want %q %q %d", c.address, function, file, line, c.function, c.file, c.line)
		}
	}
	if name, ok := p.find(0x7f0000005000); !ok || len(name) >= maxName {
		t.Errorf("a long name has %d bytes", len(name))
	}
}

func TestParseStatus(t *testing.T) {
	pid, uid, err := parseStatus([]byte("Name:\tnode\nUid:\t0\t1000\t0\t0\nNSpid:\t4121\t17\t1\n"))
	if pid != 1 || uid != 1000 || err != nil {
		t.Errorf("pid %d, uid %d, %v", pid, uid, err)
	}
	if _, _, err := parseStatus([]byte("Name:\tnode\nUid:\t0\t1000\t0\t0\n")); err == nil {
		t.Error("a status without a pid is accepted")
	}
}

// Anyone may put a file of that name into /tmp.
func TestHostilePerfMap(t *testing.T) {
	img, err := image.Read(t.Context(), os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "perf-1.map")
	read := func() error {
		_, err := openPerfMap(t.Context(), img, path, uint32(os.Getuid()))
		return err
	}
	if err := read(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("none: %v", err)
	}
	good := filepath.Join(dir, "good")
	if err := os.WriteFile(good, []byte("1000 10 f\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, make := range map[string]func() error{
		"link":   func() error { return os.Symlink(good, path) },
		"pipe":   func() error { return unix.Mkfifo(path, 0o644) },
		"device": func() error { return unix.Mknod(path, unix.S_IFCHR|0o644, int(unix.Mkdev(1, 5))) },
		"folder": func() error { return os.Mkdir(path, 0o755) },
		"huge":   func() error { return errors.Join(os.WriteFile(path, nil, 0o644), os.Truncate(path, 1<<40)) },
		"another user's": func() error {
			return errors.Join(os.WriteFile(path, nil, 0o644), os.Chown(path, os.Getuid()+1, -1))
		},
	} {
		if err := make(); err != nil {
			t.Fatal(err)
		}
		if err := read(); err == nil {
			t.Errorf("a %s is read", name)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(good, path); err != nil {
		t.Fatal(err)
	}
	if err := read(); err != nil {
		t.Errorf("a good one: %v", err)
	}
}

// This process has code in anonymous memory and says so, as a JIT compiler would.
func TestJITed(t *testing.T) {
	memory, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(memory)
	begin := uint64(uintptr(unsafe.Pointer(&memory[0])))
	if f := resolve(t, os.Getpid(), begin)[0]; f.Note != "made at run time, and there is no perf map" || f.Quality != Module {
		t.Errorf("without a perf map: %+v", f)
	}
	path := fmt.Sprintf("/tmp/perf-%d.map", os.Getpid())
	if err := os.WriteFile(path, fmt.Appendf(nil, "%x 20 py::fetch:/srv/app.py\n", begin), 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(path)
	frames := resolve(t, os.Getpid(), begin, begin+0x20, begin+0x21)
	want := Frame{Function: "fetch", File: "/srv/app.py", Offset: begin, Quality: Symbol}
	if frames[0] != want {
		t.Errorf("%+v, want %+v", frames[0], want)
	}
	if f := frames[1]; f.Function != "fetch" || f.Offset != begin+0x1f {
		t.Errorf("the last byte is %+v", f)
	}
	if f := frames[2]; f.Function != "" || f.Note != "not in the perf map" {
		t.Errorf("behind it is %+v", f)
	}
}

func FuzzPerfMap(f *testing.F) {
	f.Add([]byte("7f0000001000 100 py::fetch:/srv/app.py\n7f0000001000 80 JS:*get /a.js:1:2\n"), uint64(0x7f0000001010))
	f.Fuzz(func(t *testing.T, data []byte, address uint64) {
		p, err := parsePerfMap(t.Context(), data)
		if err != nil {
			t.Fatal(err)
		}
		name, _ := p.find(address)
		for _, e := range p.entries {
			if e.begin >= e.end || len(e.name) > maxName {
				t.Errorf("entry %+v", e)
			}
		}
		splitPerfName(name)
	})
}
