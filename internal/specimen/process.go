// SPDX-License-Identifier: Apache-2.0

package specimen

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os/exec"
)

// Process is a program of this package that runs.
type Process struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr bytes.Buffer
	ended  bool
	err    error // of its end
}

// Start runs a program: with connect, or accept, and an address and a port. It is in
// the network namespace of the calling thread, and lives until Close or until this
// process ends.
func Start(program string, args ...string) (*Process, error) {
	p := &Process{cmd: exec.Command(program, args...)}
	p.cmd.Stderr = &p.stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	return p, nil
}

// PID is the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Listening waits until a program that accepts does listen, and gives its port.
// It has to be called once, before Open.
func (p *Process) Listening() (port int, err error) {
	err = p.scan("listening %d\n", &port)
	return port, err
}

// Open has one connection made, or accepted, and gives its local port and descriptor.
func (p *Process) Open() (port, fd int, err error) {
	if _, err := io.WriteString(p.in, "open\n"); err != nil {
		return 0, 0, p.failed(err)
	}
	err = p.scan("%d %d\n", &port, &fd)
	return port, fd, err
}

// CloseAll has all connections closed.
func (p *Process) CloseAll() error {
	if _, err := io.WriteString(p.in, "close\n"); err != nil {
		return p.failed(err)
	}
	return p.scan("closed\n")
}

// Close ends the process, and says how that went.
func (p *Process) Close() error {
	if p.ended {
		return p.err
	}
	p.ended = true
	p.in.Close()
	if p.err = p.cmd.Wait(); p.err != nil {
		p.err = fmt.Errorf("%w: %s", p.err, p.stderr.Bytes())
	}
	return p.err
}

// scan reads an answer.
func (p *Process) scan(format string, into ...any) error {
	line, err := p.out.ReadString('\n')
	if err != nil {
		return p.failed(err)
	}
	if n, err := fmt.Sscanf(line, format, into...); err != nil || n != len(into) {
		return fmt.Errorf("%s says %q, want %q", p.cmd.Path, line, format)
	}
	return nil
}

// failed prefers what the program says at its end to what we see of it.
func (p *Process) failed(err error) error {
	if end := p.Close(); end != nil {
		return end
	}
	return err
}
