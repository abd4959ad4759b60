// SPDX-License-Identifier: Apache-2.0

package specimen

import (
	"bytes"
	"debug/dwarf"
	"debug/elf"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// archs are all that programs can be built for; the first is this machine's.
func archs() []string {
	if runtime.GOARCH == "arm64" {
		return []string{"arm64", "amd64"}
	}
	return []string{runtime.GOARCH, "arm64"}
}

func built(t *testing.T, goarch string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := Build(dir, goarch); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestPrograms: they make connections line by line, keep them, close them when told,
// and end with their input.
func TestPrograms(t *testing.T) {
	dir := built(t, runtime.GOARCH)
	if err := BuildCXX(dir); err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"127.0.0.1", "::1"} {
		for _, name := range append(Programs(), CXX) {
			t.Run(name+" connect "+address, func(t *testing.T) { connects(t, filepath.Join(dir, name), address) })
		}
		for _, name := range Programs() {
			t.Run(name+" accept "+address, func(t *testing.T) { accepts(t, filepath.Join(dir, name), address) })
		}
	}
}

func connects(t *testing.T, program, address string) {
	listener, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Skip(err)
	}
	defer listener.Close()
	p := start(t, program, "connect", address, fmt.Sprint(listener.Addr().(*net.TCPAddr).Port))
	var ends []net.Conn
	for range 3 {
		port, fd, err := p.Open()
		if err != nil {
			t.Fatal(err)
		}
		end, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer end.Close()
		if got := end.RemoteAddr().(*net.TCPAddr).Port; got != port {
			t.Errorf("it says that its port is %d, and it is %d", port, got)
		}
		isSocket(t, p, fd)
		ends = append(ends, end)
	}
	allClosed(t, p, ends)
}

func accepts(t *testing.T, program, address string) {
	if listener, err := net.Listen("tcp", net.JoinHostPort(address, "0")); err != nil {
		t.Skip(err)
	} else {
		listener.Close()
	}
	p := start(t, program, "accept", address, "0")
	at, err := p.Listening()
	if err != nil {
		t.Fatal(err)
	}
	var ends []net.Conn
	for range 3 {
		end, err := net.Dial("tcp", net.JoinHostPort(address, fmt.Sprint(at)))
		if err != nil {
			t.Fatal(err)
		}
		defer end.Close()
		port, fd, err := p.Open()
		if err != nil {
			t.Fatal(err)
		}
		if port != at {
			t.Errorf("local port %d, want the listener's %d", port, at)
		}
		isSocket(t, p, fd)
		ends = append(ends, end)
	}
	allClosed(t, p, ends)
}

func start(t *testing.T, program string, args ...string) *Process {
	t.Helper()
	p, err := Start(program, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("it ends with %v", err)
		}
	})
	return p
}

func isSocket(t *testing.T, p *Process, fd int) {
	t.Helper()
	if link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", p.PID(), fd)); err != nil || !strings.HasPrefix(link, "socket:") {
		t.Errorf("descriptor %d is %s, %v", fd, link, err)
	}
}

// allClosed has them closed, and waits until their other ends are told.
func allClosed(t *testing.T, p *Process, ends []net.Conn) {
	t.Helper()
	if err := p.CloseAll(); err != nil {
		t.Fatal(err)
	}
	for _, end := range ends {
		if n, err := end.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("read %d bytes, %v, want the end", n, err)
		}
	}
}

// A program that cannot do what it should says why.
func TestRefused(t *testing.T) {
	p, err := Start(filepath.Join(built(t, runtime.GOARCH), "leak-pie"), "connect", "127.0.0.1", "0")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.Open(); err == nil || !strings.Contains(err.Error(), "exit status 1: connect: ") {
		t.Errorf("connect to nobody: %v", err)
	}
}

// TestFiles: what is built is for its architecture, the same in every folder, and
// has the functions of the chain; and what it loads is among the files for it.
func TestFiles(t *testing.T) {
	for _, goarch := range archs() {
		t.Run(goarch, func(t *testing.T) {
			dir, again := built(t, goarch), built(t, goarch)
			files, err := Runtime(goarch)
			if err != nil {
				t.Fatal(err)
			}
			library := functions(t, filepath.Join(dir, Library))
			for _, name := range append(Programs(), Library) {
				if !bytes.Equal(content(t, filepath.Join(dir, name)), content(t, filepath.Join(again, name))) {
					t.Errorf("%s comes out otherwise in another folder", name)
				}
				f := open(t, filepath.Join(dir, name))
				if f.Section(".note.gnu.build-id") == nil || f.Section(".eh_frame_hdr") == nil {
					t.Errorf("%s has no build ID, or no tables for unwinding", name)
				}
				checkNeeds(t, name, f, files)
				if name == Library {
					continue
				}
				program := functions(t, filepath.Join(dir, name))
				for _, function := range append(Chain("connect"), Chain("accept")...) {
					if library[function] != InLibrary(function) || program[function] == InLibrary(function) {
						t.Errorf("%s: %s is not where it should be", name, function)
					}
				}
			}
		})
	}
}

// checkNeeds: all libraries that a file needs are there, and its loader finds them.
func checkNeeds(t *testing.T, name string, f *elf.File, files map[string]string) {
	t.Helper()
	needs, err := f.ImportedLibraries()
	if err != nil {
		t.Fatal(err)
	}
	for _, need := range needs {
		at := ""
		for path := range files {
			if filepath.Base(path) == need {
				at = path
			}
		}
		if at == "" && need != Library {
			t.Errorf("%s needs %s, there is %v", name, need, files)
		}
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		raw, err := io.ReadAll(p.Open())
		if err != nil {
			t.Fatal(err)
		}
		loader := files[strings.TrimRight(string(raw), "\x00")]
		if loader == "" {
			t.Fatalf("%s names %s as its loader, there is %v", name, raw, files)
		}
		if got := open(t, loader).Machine; got != f.Machine {
			t.Errorf("%s is for %v, its loader for %v", name, f.Machine, got)
		}
		for path, file := range files {
			// Where it looks without any configuration is a list of texts in it.
			if search := filepath.Dir(path) + "/\x00"; file != loader && !bytes.Contains(content(t, loader), []byte("\x00"+search)) {
				t.Errorf("%s is not where %s looks", path, loader)
			}
		}
	}
}

// TestLines: the programs that have lines say where their source is.
func TestLines(t *testing.T) {
	dir := built(t, runtime.GOARCH)
	if err := BuildCXX(dir); err != nil {
		t.Fatal(err)
	}
	for name, source := range map[string]string{"leak-debug": "leak.c", CXX: "leak.cc", "leak-pie": "", "leak-nopie": "", Library: ""} {
		f := open(t, filepath.Join(dir, name))
		if has := f.Section(".debug_line") != nil; has != (source != "") {
			t.Errorf("%s has lines: %v", name, has)
		}
		if source == "" {
			continue
		}
		data, err := f.DWARF()
		if err != nil {
			t.Fatal(err)
		}
		unit, err := data.Reader().Next()
		if err != nil || unit == nil {
			t.Fatalf("%s has no lines: %v", name, err)
		}
		if file, at := unit.Val(dwarf.AttrName), unit.Val(dwarf.AttrCompDir); file != source || at != SourceDir {
			t.Errorf("%s comes from %v in %v, want %s in %s", name, file, at, source, SourceDir)
		}
	}
}

func open(t *testing.T, path string) *elf.File {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// functions gives those that a file defines.
func functions(t *testing.T, path string) map[string]bool {
	t.Helper()
	symbols, err := open(t, path).Symbols()
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for _, s := range slices.DeleteFunc(symbols, func(s elf.Symbol) bool { return s.Section == elf.SHN_UNDEF }) {
		names[s.Name] = elf.ST_TYPE(s.Info) == elf.STT_FUNC
	}
	return names
}

func content(t *testing.T, path string) []byte {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
