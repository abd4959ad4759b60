// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseMaps(t *testing.T) {
	got, err := parseMaps([]byte(strings.Join([]string{
		`00400000-00401000 r--p 00000000 fe:01 131337                             /usr/bin/a b`,
		`00401000-00402000 r-xp 00001000 fe:01 131337                             /usr/bin/a b (deleted)`,
		`00402000-00403000 rw-s 00002000 103:10001 18446744073709551615           /a\012b`,
		`7f0000000000-7f0000001000 rwxp 00000000 00:00 0 `,
		`7ffd00000000-7ffd00001000 r-xp 00000000 00:00 0                          [vdso]`,
		`ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]`,
		``,
	}, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	disk := unix.Mkdev(0xfe, 1)
	want := []Mapping{
		{0x400000, 0x401000, 0, "/usr/bin/a b", disk, 131337, false, false},
		{0x401000, 0x402000, 0x1000, "/usr/bin/a b", disk, 131337, true, true},
		{0x402000, 0x403000, 0x2000, "/a\nb", unix.Mkdev(0x103, 0x10001), 1<<64 - 1, false, false},
		{0x7f0000000000, 0x7f0000001000, 0, "", 0, 0, true, false},
		{0x7ffd00000000, 0x7ffd00001000, 0, "[vdso]", 0, 0, true, false},
		{0xffffffffff600000, 0xffffffffff601000, 0, "[vsyscall]", 0, 0, true, false},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	img := &Image{mappings: got}
	for address, path := range map[uint64]string{
		0x400000: "/usr/bin/a b", 0x400fff: "/usr/bin/a b", 0x402fff: "/a\nb", 0x7ffd00000001: "[vdso]",
	} {
		if m, ok := img.Find(address); !ok || m.Path != path {
			t.Errorf("%#x is in %q, %v", address, m.Path, ok)
		}
	}
	for _, address := range []uint64{0, 0x3fffff, 0x403000, 0x7f0000001000, 1<<64 - 1} {
		if m, ok := img.Find(address); ok {
			t.Errorf("%#x is in %+v", address, m)
		}
	}
}

func TestParseMapsRefuses(t *testing.T) {
	for _, text := range []string{
		"\n",
		"x",
		"00401000-00400000 r-xp 00000000 fe:01 1 /a\n",
		"00400000-00400000 r-xp 00000000 fe:01 1 /a\n",
		"00400000-1ffffffffffffffff r-xp 00000000 fe:01 1 /a\n",
		"00400000-00401000 x 00000000 fe:01 1 /a\n",
		"00400000-00401000 r-xp 00000000 fe01 1 /a\n",
		"00400000-00401000 r-xp 00000000 fe:01\n",
		"00402000-00403000 r-xp 00000000 fe:01 1 /a\n00400000-00401000 r-xp 00000000 fe:01 1 /a\n",
	} {
		if got, err := parseMaps([]byte(text)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q gives %+v, %v", text, got, err)
		}
	}
	if _, err := parseMaps([]byte(manyMaps())); !errors.Is(err, ErrTooLarge) {
		t.Error("too many mappings are accepted")
	}
}

// manyMaps has one mapping too many.
func manyMaps() string {
	var text strings.Builder
	for i := range maxMappings + 1 {
		fmt.Fprintf(&text, "%x-%x r-xp 00000000 00:00 0\n", i, i+1)
	}
	return text.String()
}

// sleeper runs a copy of a program, and gives the mapping of its code.
func sleeper(t *testing.T) (img *Image, code Mapping, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "sleep")
	original, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(original)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	if img, err = Read(t.Context(), cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	for _, m := range img.Mappings() {
		if m.Path == path && m.Executable {
			return img, m, path
		}
	}
	t.Fatalf("no code of %s is mapped: %+v", path, img.Mappings())
	return nil, Mapping{}, ""
}

// By path only the file that is mapped is taken; by map_files it is found even if
// there is another one at its path.
func TestReplaced(t *testing.T) {
	img, code, path := sleeper(t)
	file, err := img.openPath(code)
	if err != nil {
		t.Fatalf("the file as it was: %v", err)
	}
	file.Close()
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	if _, err := img.openPath(code); !errors.Is(err, ErrReplaced) {
		t.Errorf("with no file: %v", err)
	}
	if err := os.WriteFile(path, []byte("another"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := img.openPath(code); !errors.Is(err, ErrReplaced) {
		t.Errorf("with another file: %v", err)
	}
	checkMapped(t, img, code)
	if err := os.Remove(path + ".old"); err != nil {
		t.Fatal(err)
	}
	checkMapped(t, img, code)
}

// checkMapped opens the file that is mapped.
func checkMapped(t *testing.T, img *Image, code Mapping) {
	t.Helper()
	var cache Cache
	defer cache.Close()
	m, err := cache.Open(t.Context(), img, code)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := cache.Open(t.Context(), img, code); again != m || err != nil {
		t.Errorf("a second time it is another module: %v", err)
	}
	if closed := cache.Trim(0, 1<<40); len(closed) != 1 || closed[0] != m {
		t.Errorf("closed %v", closed)
	}
}

func TestReadGone(t *testing.T) {
	if _, err := Read(t.Context(), 1<<22+1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no process: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Read(ctx, os.Getpid()); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestNoFile(t *testing.T) {
	var cache Cache
	if _, err := cache.Open(t.Context(), &Image{}, Mapping{Begin: 1, End: 2}); !errors.Is(err, ErrNoFile) {
		t.Errorf("anonymous memory: %v", err)
	}
}

func FuzzMaps(f *testing.F) {
	own, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(own)
	f.Fuzz(func(t *testing.T, text []byte) {
		mappings, err := parseMaps(text)
		if err != nil {
			return
		}
		img := &Image{mappings: mappings}
		for _, m := range mappings {
			if found, ok := img.Find(m.End - 1); !ok || found != m {
				t.Errorf("%#x is in %+v, want %+v", m.End-1, found, m)
			}
		}
	})
}
