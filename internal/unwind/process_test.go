// SPDX-License-Identifier: Apache-2.0

package unwind

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// slice is how much of a stack is copied.
const slice = 16 << 10

// process is a stopped or blocked program, with what its code addresses belong to.
type process struct {
	pid      int
	mappings []mapping
}

type mapping struct {
	start, end uint64
	name       string
	file       *elf.File
	table      *Table
	bias       uint64
	symbols    []elf.Symbol
}

// open reads what code a process has mapped.
func open(t testing.TB, pid int) *process {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	p := &process{pid: pid}
	for line := range strings.Lines(string(maps)) {
		var m mapping
		var access, device, path string
		var at, inode uint64
		n, _ := fmt.Sscanf(line, "%x-%x %s %x %s %d %s", &m.start, &m.end, &access, &at, &device, &inode, &path)
		if n != 7 || access[2] != 'x' || path == "[vsyscall]" {
			continue
		}
		m.name = filepath.Base(path)
		if path == "[vdso]" {
			image := make([]byte, m.end-m.start)
			p.read(t, m.start, image)
			m.file, err = elf.NewFile(bytes.NewReader(image))
		} else {
			m.file, err = elf.Open(path)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.file.Close() })
		for _, s := range m.file.Progs {
			if s.Type == elf.PT_LOAD && s.Flags&elf.PF_X != 0 {
				m.bias = m.start - at - (s.Vaddr - s.Off)
			}
		}
		if m.table, err = tableOf(m.file); err != nil && !errors.Is(err, ErrNoTable) {
			t.Fatal(err)
		}
		m.symbols, _ = m.file.Symbols()
		dynamic, _ := m.file.DynamicSymbols()
		m.symbols = append(m.symbols, dynamic...)
		p.mappings = append(p.mappings, m)
	}
	return p
}

func (p *process) find(addr uint64) *mapping {
	for i := range p.mappings {
		if m := &p.mappings[i]; addr >= m.start && addr < m.end {
			return m
		}
	}
	return nil
}

func (p *process) modules(addr uint64) (*Table, uint64, bool) {
	m := p.find(addr)
	if m == nil {
		return nil, 0, false
	}
	return m.table, m.bias, true
}

// names gives the function of each frame, in files of ours, and otherwise the file.
func (p *process) names(frames []Frame) (names []string) {
	for _, f := range frames {
		names = append(names, p.name(f.Site()))
	}
	return names
}

func (p *process) name(addr uint64) string {
	m := p.find(addr)
	if m == nil {
		return "?"
	}
	for _, s := range m.symbols {
		if at := addr - m.bias; elf.ST_TYPE(s.Info) == elf.STT_FUNC && at >= s.Value && at < s.Value+s.Size &&
			!strings.HasPrefix(m.name, "libc.") && !strings.HasPrefix(m.name, "ld-") {
			return s.Name
		}
	}
	return m.name
}

// address finds a function of the program itself.
func (p *process) address(t testing.TB, function string) uint64 {
	t.Helper()
	for _, m := range p.mappings {
		for _, s := range m.symbols {
			if s.Name == function && s.Section != elf.SHN_UNDEF {
				return s.Value + m.bias
			}
		}
	}
	t.Fatalf("no function %s", function)
	return 0
}

// read copies memory as far as it is there.
func (p *process) read(t testing.TB, addr uint64, into []byte) int {
	t.Helper()
	local := []unix.Iovec{{Base: &into[0]}}
	local[0].SetLen(len(into))
	n, err := unix.ProcessVMReadv(p.pid, local, []unix.RemoteIovec{{Base: uintptr(addr), Len: len(into)}}, 0)
	if err != nil {
		t.Fatalf("read memory at %#x: %v", addr, err)
	}
	return n
}

// stack copies the top of a stack.
func (p *process) stack(t testing.TB, regs Registers, size int) Stack {
	t.Helper()
	base := regs.SP
	if regs.Arch == ARM64 {
		base -= 16
	}
	b := make([]byte, size)
	for _, m := range p.ends(t) {
		if base >= m[0] && base < m[1] {
			b = b[:min(uint64(size), m[1]-base)]
		}
	}
	return Stack{base, b[:p.read(t, base, b)]}
}

// ends gives all mappings: a read stops with an error or short at the end of one.
func (p *process) ends(t testing.TB) (all [][2]uint64) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", p.pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(maps)) {
		var m [2]uint64
		fmt.Sscanf(line, "%x-%x", &m[0], &m[1])
		all = append(all, m)
	}
	return all
}

// stopped stops a thread for as long as it takes to read its registers.
func stopped(t testing.TB, tid int) Registers {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.PtraceSeize(tid); err != nil {
		t.Fatalf("seize: %v", err)
	}
	defer unix.PtraceDetach(tid)
	if err := unix.PtraceInterrupt(tid); err != nil {
		t.Fatalf("interrupt: %v", err)
	}
	if _, err := unix.Wait4(tid, nil, unix.WALL, nil); err != nil {
		t.Fatalf("wait: %v", err)
	}
	var r unix.PtraceRegs
	if err := unix.PtraceGetRegs(tid, &r); err != nil {
		t.Fatalf("registers: %v", err)
	}
	return convert(&r)
}

// blocked waits until a thread sleeps in read or accept: which, of all but those excluded.
func blocked(t testing.TB, pid int, not ...int) int {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		paths, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
		for _, path := range paths {
			var number, tid int
			data, _ := os.ReadFile(path)
			fmt.Sscanf(filepath.Base(filepath.Dir(path)), "%d", &tid)
			n, _ := fmt.Sscanf(string(data), "%d 0x", &number)
			status, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "stat"))
			_, state, _ := strings.Cut(string(status), ") ")
			if n == 1 && strings.HasPrefix(state, "S") && !slices.Contains(not, tid) &&
				slices.Contains([]int{unix.SYS_READ, unix.SYS_ACCEPT, unix.SYS_ACCEPT4}, number) {
				return tid
			}
		}
	}
	t.Fatal("the program does not block")
	return 0
}
