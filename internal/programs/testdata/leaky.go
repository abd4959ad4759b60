// SPDX-License-Identifier: Apache-2.0

// leaky.go PORT: HTTP responses whose body is never closed. Says what it holds, then
// waits for the end of its input.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"

	"golang.org/x/sys/unix"
)

var kept []*http.Response

func main() {
	for _, get := range []struct{ path, verdict string }{
		{"/small", "eof_unread"}, // one read has taken all of the body, and not the end
		{"/large", "data_unread"},
	} {
		check(leak("http://127.0.0.1:"+os.Args[1]+get.path, get.verdict))
	}
	fmt.Println("done")
	io.Copy(io.Discard, os.Stdin)
}

func leak(url, verdict string) error {
	var made net.Conn
	request, err := http.NewRequest("GET", url, nil)
	if err != nil {
		return err
	}
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { made = info.Conn }}
	response, err := http.DefaultClient.Do(request.WithContext(httptrace.WithClientTrace(request.Context(), trace)))
	if err != nil {
		return err
	}
	kept = append(kept, response)
	if _, err := made.Write([]byte{'.'}); err != nil { // a server may close an idle connection: now it does
		return err
	}
	raw, err := made.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) {
		for {
			_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}, -1)
			if err != unix.EINTR {
				break
			}
		}
		check(err)
		fmt.Println(os.Getpid(), fd, made.LocalAddr(), verdict)
	})
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
