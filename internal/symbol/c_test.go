// SPDX-License-Identifier: Apache-2.0

package symbol

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"afterfin/internal/image"
)

// site is what the C program tells.
type site struct {
	program
	call   uint64 // the return address of the call
	line   int    // of the call
	begin  uint64 // where the file is loaded
	accept uint64 // libc's
}

func startC(t *testing.T, root, path string) site {
	t.Helper()
	s := site{program: start(t, root, path)}
	if _, err := fmt.Fscanf(s.output, "%v %d\n%v %v\n", &s.call, &s.line, &s.begin, &s.accept); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestC(t *testing.T) {
	source, err := filepath.Abs("testdata/site.c")
	if err != nil {
		t.Fatal(err)
	}
	for name, flags := range map[string][]string{
		"pie":          {"-g", "-pie", "-fPIE"},
		"no pie":       {"-g", "-no-pie"},
		"dwarf 4":      {"-gdwarf-4"},
		"dwarf 3":      {"-gdwarf-3", "-gstrict-dwarf"},
		"compressed":   {"-g", "-gz=zlib"},
		"without -g":   {"-pie", "-fPIE"},
		"stripped":     {"-s", "-pie", "-fPIE"},
		"stripped fix": {"-s", "-no-pie"},
	} {
		t.Run(name, func(t *testing.T) {
			path := gcc(t, flags...)
			s := startC(t, "", path)
			offset := s.call - 1
			if !strings.Contains(strings.Join(flags, " "), "-no-pie") {
				offset -= s.begin
			}
			want := Frame{Module: path, Offset: offset, Quality: Module, Note: "no symbol covers it"}
			if flags[0] != "-s" {
				want.Function, want.Quality, want.Note = "leak_here", Symbol, ""
			}
			if strings.HasPrefix(flags[0], "-g") {
				want.File, want.Line, want.Quality = source, s.line, Line
			}
			if strings.HasPrefix(name, "dwarf") {
				want.File = "testdata/site.c"
			}
			frames := resolve(t, s.pid, s.accept+4, s.call, 16)
			if len(frames) != 3 {
				t.Fatalf("%d frames: %+v", len(frames), frames)
			}
			if frames[1] != want {
				t.Errorf("the call is %+v, want %+v", frames[1], want)
			}
			if f := frames[0]; f.Function != "accept" || !strings.HasSuffix(f.Module, "/libc.so.6") {
				t.Errorf("accept is %+v", f)
			}
			if f := (Frame{Offset: 15, Note: "nothing is mapped there"}); frames[2] != f {
				t.Errorf("no address is %+v, want %+v", frames[2], f)
			}
		})
	}
}

// A function's name and the line of another one that was put into it do not belong together:
// the line is where the function begins, and the other one is told apart.
func TestInlinedFromAnotherFile(t *testing.T) {
	path := compile(t, "inlined.c", "-gdwarf-4", "-no-pie")
	s := startC(t, "", path)
	want := Frame{Function: "leak_here", File: "testdata/inlined.c", Line: s.line, Module: path, Offset: s.call - 1, Quality: Symbol}
	got := resolve(t, s.pid, 0, s.call)[1]
	if !strings.HasSuffix(got.Note, "library.h:7 is inlined there") {
		t.Errorf("note %q", got.Note)
	}
	if got.Note = ""; got != want {
		t.Errorf("the call is %+v, want %+v", got, want)
	}
}

// A container has its own files and its own pids: the debug file and the perf map are
// in its root, the latter by the pid that the program itself has.
func TestContainer(t *testing.T) {
	built := gcc(t, "-g", "-static-pie", "-fPIE", "-Wl,--build-id=0x0123456789abcdef0123456789abcdef")
	root := t.TempDir()
	full := filepath.Join(root, "usr/lib/debug/.build-id/01/23456789abcdef0123456789abcdef.debug")
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, nil, "objcopy", "--only-keep-debug", built, full)
	run(t, nil, "objcopy", "--strip-all", built, filepath.Join(root, "site"))
	s := startC(t, root, "/site")
	frames := resolve(t, s.pid, 0, s.call)
	f := frames[1]
	if f.Function != "leak_here" || f.Line != s.line || f.Module != filepath.Join(root, "site") || f.Offset != s.call-1-s.begin {
		t.Errorf("the call is %+v", f)
	}
	// Of another build it is no help.
	other := gcc(t, "-g", "-static-pie", "-fPIE", "-Wl,--build-id=0xff23456789abcdef0123456789abcdef")
	run(t, nil, "objcopy", "--only-keep-debug", other, full)
	if f := resolve(t, s.pid, 0, s.call)[1]; f.Function != "" || f.Quality != Module {
		t.Errorf("with the debug file of another build the call is %+v", f)
	}
	img, err := image.Read(t.Context(), s.pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, "tmp"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "tmp/perf-1.map"), []byte("1000 10 inside\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	perf, err := readPerfMap(t.Context(), img, s.pid)
	if err != nil {
		t.Fatal(err)
	}
	if name, ok := perf.find(0x1008); name != "inside" || !ok {
		t.Errorf("the perf map has %+v", perf.entries)
	}
}

// miniDebug builds the program with leak_here in .gnu_debugdata only.
func miniDebug(t *testing.T) string {
	t.Helper()
	built := gcc(t, "-no-pie")
	dir := t.TempDir()
	mini, path := filepath.Join(dir, "mini"), filepath.Join(dir, "site")
	run(t, nil, "objcopy", "-S", "--remove-section", ".comment", "--keep-symbol=leak_here", built, mini)
	run(t, nil, "xz", mini)
	run(t, nil, "objcopy", "--strip-all", "--add-section", ".gnu_debugdata="+mini+".xz", built, path)
	return path
}

func TestMiniDebug(t *testing.T) {
	s := startC(t, "", miniDebug(t))
	if f := resolve(t, s.pid, 0, s.call)[1]; f.Function != "leak_here" || f.Quality != Symbol {
		t.Errorf("the call is %+v", f)
	}
}

// The vdso has symbols as any library.
func TestVDSO(t *testing.T) {
	img, err := image.Read(t.Context(), os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range img.Mappings() {
		if m.Path != "[vdso]" {
			continue
		}
		data := make([]byte, m.End-m.Begin)
		mem, err := os.Open("/proc/self/mem")
		if err != nil {
			t.Fatal(err)
		}
		defer mem.Close()
		if _, err := mem.ReadAt(data, int64(m.Begin)); err != nil {
			t.Fatal(err)
		}
		file, err := elf.NewFile(strings.NewReader(string(data)))
		if err != nil {
			t.Fatal(err)
		}
		symbols, err := file.DynamicSymbols()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range symbols {
			if elf.ST_TYPE(s.Info) != elf.STT_FUNC || strings.HasPrefix(s.Name, "__") || s.Size == 0 {
				continue
			}
			want := Frame{Function: s.Name, Module: "[vdso]", Offset: s.Value, Quality: Symbol}
			if f := resolve(t, os.Getpid(), m.Begin+s.Value)[0]; f != want {
				t.Errorf("%s is %+v, want %+v", s.Name, f, want)
			}
		}
		return
	}
	t.Fatal("this process has no vdso")
}

func TestDemangled(t *testing.T) {
	for name, want := range map[string]string{
		"_ZN7billing6Client3getEi":                "billing::Client::get",
		"_ZNSt6vectorIiSaIiEE9push_backERKi":      "std::vector<int, std::allocator<int> >::push_back",
		"_ZN4pool6Client3get17h0123456789abcdefE": "pool::Client::get",
		"_RNvNtCs1234_7mycrate3foo3bar":           "mycrate::foo::bar",
		"main":                                    "main",
		"_Z":                                      "_Z",
		"_ZN" + strings.Repeat("1a", 1000) + "Ev": strings.Repeat("a::", 999) + "a",
	} {
		if got := demangled(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	bomb := "_Z1fI" + strings.Repeat("St4pairI", 9) + "ii" + strings.Repeat("S_S_E", 300)
	if got := demangled(bomb); len(got) > maxName {
		t.Errorf("a name of %d bytes becomes one of %d", len(bomb), len(got))
	}
}

func TestResolveGone(t *testing.T) {
	r := New()
	defer r.Close()
	if _, err := r.Resolve(context.Background(), 1<<22+1, []uint64{1}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no process: %v", err)
	}
}
