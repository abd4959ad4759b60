// SPDX-License-Identifier: Apache-2.0

package unwind

import (
	"encoding/binary"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// tracee is a program that runs one instruction at a time.
type tracee struct {
	*process
	t   *testing.T
	pid int
}

func (c *tracee) wait() {
	c.t.Helper()
	var status unix.WaitStatus
	if _, err := unix.Wait4(c.pid, &status, unix.WALL, nil); err != nil {
		c.t.Fatal(err)
	}
	if !status.Stopped() || status.StopSignal() != unix.SIGTRAP {
		c.t.Fatalf("the program stopped with status %#x", status)
	}
}

func (c *tracee) registers() (r unix.PtraceRegs) {
	c.t.Helper()
	if err := unix.PtraceGetRegs(c.pid, &r); err != nil {
		c.t.Fatal(err)
	}
	return r
}

func (c *tracee) word(addr uint64) uint64 {
	c.t.Helper()
	var b [8]byte
	if n := c.read(c.t, addr, b[:]); n != len(b) {
		c.t.Fatalf("short read at %#x", addr)
	}
	return binary.LittleEndian.Uint64(b[:])
}

// until runs the program up to a function.
func (c *tracee) until(addr uint64) {
	c.t.Helper()
	var saved [1]byte
	c.read(c.t, addr, saved[:])
	if _, err := unix.PtracePokeText(c.pid, uintptr(addr), []byte{0xcc}); err != nil {
		c.t.Fatal(err)
	}
	if err := unix.PtraceCont(c.pid, 0); err != nil {
		c.t.Fatal(err)
	}
	c.wait()
	if _, err := unix.PtracePokeText(c.pid, uintptr(addr), saved[:]); err != nil {
		c.t.Fatal(err)
	}
	r := c.registers()
	r.Rip = addr
	if err := unix.PtraceSetRegs(c.pid, &r); err != nil {
		c.t.Fatal(err)
	}
}

// Every instruction from main to the blocking call is stopped at and unwound from:
// prologues, epilogues, PLT entries, the dynamic linker as it binds them. The return
// addresses must be those that the calls before have pushed.
func TestEveryInstruction(t *testing.T) {
	for _, argument := range []string{"library", "variable"} {
		t.Run(argument, func(t *testing.T) { everyInstruction(t, argument) })
	}
}

func everyInstruction(t *testing.T, argument string) {
	runtime.LockOSThread() // ptrace goes by thread
	defer runtime.UnlockOSThread()
	cmd := exec.Command(programs.pie, argument)
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); unix.Wait4(cmd.Process.Pid, nil, unix.WALL, nil) }()
	c := &tracee{t: t, pid: cmd.Process.Pid}
	c.wait()
	c.process = open(t, c.pid)
	c.until(c.address(t, "main"))
	c.process = open(t, c.pid) // now with the libraries

	r := c.registers()
	regs := convert(&r)
	frames, stop := Unwind(regs, c.stack(t, regs, slice), c.modules)
	if got := c.names(frames); !slices.Equal(got, outermost) || stop != End {
		t.Fatalf("at main: %q, %v", got, stop)
	}
	var calls []uint64 // the return addresses, outermost first
	for _, f := range slices.Backward(frames[1:]) {
		calls = append(calls, f.PC)
	}

	where := make(map[string]int)
	for n := 0; ; n++ {
		if n > 200_000 {
			t.Fatal("the program does not block")
		}
		var code [2]byte
		c.read(t, r.Rip, code[:])
		if code == [2]byte{0x0f, 0x05} && (r.Rax == unix.SYS_READ || r.Rax == unix.SYS_ACCEPT) && c.find(r.Rip).name == "libc.so.6" {
			break
		}
		if err := unix.PtraceSingleStep(c.pid); err != nil {
			t.Fatal(err)
		}
		c.wait()
		was := r
		r = c.registers()
		switch {
		case r.Rsp == was.Rsp-8 && r.Rip != was.Rip && isCall(c, was.Rip):
			calls = append(calls, c.word(r.Rsp))
		case isReturn(c, was.Rip):
			if back := calls[len(calls)-1]; back != r.Rip {
				t.Fatalf("at %#x: returns to %#x, called from %#x", was.Rip, r.Rip, back)
			}
			calls = calls[:len(calls)-1]
		}
		regs := convert(&r)
		top := c.stack(t, regs, slice)
		below := make([]byte, 128)
		c.read(t, regs.SP-128, below)
		stack := Stack{regs.SP - 128, append(below, top.Bytes...)}
		frames, stop := Unwind(regs, stack, c.modules)
		where[c.find(r.Rip).name]++
		var got []uint64
		for _, f := range slices.Backward(frames[1:]) {
			got = append(got, f.PC)
		}
		if !slices.Equal(got, calls) || stop != End {
			t.Fatalf("instruction %d at %#x in %s: got %#x (%q, %v), want %#x", n, r.Rip-c.find(r.Rip).bias, c.find(r.Rip).name, got, c.names(frames), stop, calls)
		}
	}
	t.Logf("instructions: %v", where)
	for _, name := range []string{"pie", "libc.so.6", "ld-linux-x86-64.so.2"} {
		if where[name] == 0 {
			t.Errorf("no instruction of %s was run", name)
		}
	}
}

// isCall tells whether the instruction at an address calls.
func isCall(c *tracee, addr uint64) bool {
	code := opcode(c, addr)
	return code[0] == 0xe8 || code[0] == 0xff && code[1]>>3&7 == 2
}

// isReturn tells whether the instruction at an address returns.
func isReturn(c *tracee, addr uint64) bool { return opcode(c, addr)[0] == 0xc3 }

// opcode reads an instruction behind its prefixes.
func opcode(c *tracee, addr uint64) []byte {
	var code [8]byte
	c.read(c.t, addr, code[:])
	rest := code[:6]
	for rest[0] == 0xf2 || rest[0] == 0xf3 || rest[0] == 0x3e || rest[0]&0xf0 == 0x40 {
		rest = append(rest[1:], 0)
	}
	return rest
}
