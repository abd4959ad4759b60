// SPDX-License-Identifier: Apache-2.0
// leak connect in C++, for the names of its functions: those in a namespace and a class
// are mangled. Usage: leak-cc connect ADDRESS PORT
#include <arpa/inet.h>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>
#include <sys/socket.h>
#include <unistd.h>
#include <vector>

// noipa: no caller may be merged, cloned or fitted to what it calls, so each has a frame.
#define FRAME __attribute__((noinline, noclone, noipa))

namespace billing
{

static volatile int returned; // work after each call, so that none can be a jump

static void fail(std::string const &what)
{
	std::cerr << what << ": " << std::strerror(errno) << std::endl;
	std::exit(1);
}

class Client
{
      public:
	Client(std::string const &address, std::string const &port)
	{
		auto number = htons(std::atoi(port.c_str()));
		if (inet_pton(AF_INET, address.c_str(), &at.v4.sin_addr) == 1) {
			at.v4.sin_family = AF_INET;
			at.v4.sin_port = number;
			len = sizeof(at.v4);
		} else if (inet_pton(AF_INET6, address.c_str(), &at.v6.sin6_addr) == 1) {
			at.v6.sin6_family = AF_INET6;
			at.v6.sin6_port = number;
			len = sizeof(at.v6);
		} else {
			errno = EINVAL;
			fail(address);
		}
	}

	int get(std::string const &line);
	void close_all();

      private:
	int dial();

	union {
		sockaddr any;
		sockaddr_in v4;
		sockaddr_in6 v6;
	} at{};
	socklen_t len = 0;
	std::vector<int> kept;
};

FRAME int Client::dial()
{
	int fd = socket(at.any.sa_family, SOCK_STREAM, 0);
	if (fd < 0 || connect(fd, &at.any, len) < 0)
		fail("connect");
	returned = returned + 1;
	return fd;
}

FRAME int Client::get(std::string const &line)
{
	int fd = dial();
	kept.push_back(fd);
	returned = returned + line.size();
	return fd;
}

void Client::close_all()
{
	for (int fd : kept)
		close(fd);
	kept.clear();
}

static int port_of(int fd)
{
	union {
		sockaddr any;
		sockaddr_in v4;
		sockaddr_in6 v6;
	} own{};
	socklen_t len = sizeof(own);
	if (getsockname(fd, &own.any, &len) < 0)
		fail("getsockname");
	return ntohs(own.any.sa_family == AF_INET ? own.v4.sin_port : own.v6.sin6_port);
}

FRAME void serve(Client &client)
{
	for (std::string line; std::getline(std::cin, line);) {
		if (line == "close") {
			client.close_all();
			std::cout << "closed" << std::endl;
			continue;
		}
		int fd = client.get(line);
		std::cout << port_of(fd) << " " << fd << std::endl;
	}
}

} // namespace billing

int main(int argc, char **argv)
{
	if (argc != 4 || std::strcmp(argv[1], "connect")) {
		std::cerr << "usage: leak-cc connect ADDRESS PORT" << std::endl;
		return 1;
	}
	billing::Client client(argv[2], argv[3]);
	billing::serve(client);
	billing::returned = billing::returned + 1;
	return 0;
}
