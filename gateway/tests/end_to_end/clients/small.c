/* A client of the kind that runs on an Arduino: MQTT 3.1.1, QoS 0, and one buffer of 256 octets for everything it sends and receives.
 * What does not fit is not sent, and a packet that does not fit is thrown away, as such clients do.
 *
 *   small HOST PORT CLIENT_ID USER PASSWORD SUBSCRIBE PUBLISH PAYLOAD
 *
 * Connects, subscribes to one topic, publishes to another, and waits for one message. Tells on standard output how large its CONNECT was,
 * what the server answered and what came. */
#define _POSIX_C_SOURCE 200112L
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { BUFFER = 256, HEADER = 2 };

static unsigned char buffer[BUFFER];
static size_t length;
static int server;

static void fail(const char *why) {
  printf("fail %s\n", why);
  exit(1);
}

static void put(unsigned char octet) {
  if (length >= BUFFER) fail("the packet does not fit into 256 octets");
  buffer[length++] = octet;
}

static void put_text(const char *text) {
  size_t octets = strlen(text);
  put((unsigned char)(octets >> 8));
  put((unsigned char)(octets & 0xff));
  while (*text) put((unsigned char)*text++);
}

/* The body stands in the buffer from HEADER on; one octet of length is enough below 128, else the header needs one more. */
static void send_packet(unsigned char first) {
  unsigned char header[3];
  size_t body = length - HEADER, octets = 0;
  header[octets++] = first;
  if (body < 128) {
    header[octets++] = (unsigned char)body;
  } else {
    header[octets++] = (unsigned char)(body % 128 + 128);
    header[octets++] = (unsigned char)(body / 128);
  }
  if (octets + body > BUFFER) fail("the packet does not fit into 256 octets");
  if (write(server, header, octets) != (ssize_t)octets || write(server, buffer + HEADER, body) != (ssize_t)body) fail("not sent");
}

static unsigned char next(void) {
  unsigned char octet;
  if (read(server, &octet, 1) != 1) fail("closed, or nothing came");
  return octet;
}

/* Reads one packet; its body is in the buffer, unless it is too long. */
static unsigned char receive(void) {
  unsigned char first = next(), octet;
  size_t body = 0, shift = 0, at;
  do {
    octet = next();
    body |= (size_t)(octet & 0x7f) << shift;
    shift += 7;
  } while (octet & 0x80 && shift < 28);
  for (at = 0; at < body; at++) {
    octet = next();
    if (at < BUFFER) buffer[at] = octet;
  }
  length = body < BUFFER ? body : 0;
  return first;
}

static void dial(const char *host, const char *port) {
  struct addrinfo wanted, *found;
  struct timeval patience = {10, 0};
  memset(&wanted, 0, sizeof wanted);
  wanted.ai_socktype = SOCK_STREAM;
  if (getaddrinfo(host, port, &wanted, &found) != 0) fail("no such host");
  server = socket(found->ai_family, found->ai_socktype, found->ai_protocol);
  if (server < 0 || connect(server, found->ai_addr, found->ai_addrlen) != 0) fail("no connection");
  setsockopt(server, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  freeaddrinfo(found);
}

int main(int count, char **word) {
  const char *payload;
  setvbuf(stdout, NULL, _IOLBF, 0);
  if (count != 9) fail("usage: small HOST PORT CLIENT_ID USER PASSWORD SUBSCRIBE PUBLISH PAYLOAD");
  dial(word[1], word[2]);

  length = HEADER;
  put_text("MQTT");
  put(4);
  put(0xc2); /* user name, password, clean session */
  put(0);
  put(15);
  put_text(word[3]);
  put_text(word[4]);
  put_text(word[5]);
  printf("connect %u\n", (unsigned)length + 1);
  send_packet(0x10);
  if (receive() != 0x20 || length != 2) fail("no CONNACK");
  printf("connack %u\n", buffer[1]);
  if (buffer[1] != 0) return 2;

  length = HEADER;
  put(0);
  put(1);
  put_text(word[6]);
  put(0);
  send_packet(0x82);
  if (receive() != 0x90 || length != 3) fail("no SUBACK");
  printf("suback %u\n", buffer[2]);

  length = HEADER;
  put_text(word[7]);
  for (payload = word[8]; *payload; payload++) put((unsigned char)*payload);
  send_packet(0x30);

  while ((receive() & 0xf0) != 0x30) {
  }
  if (length < 2 || length < 2 + (size_t)buffer[0] * 256 + buffer[1]) fail("a message that does not fit");
  {
    size_t topic = (size_t)buffer[0] * 256 + buffer[1];
    printf("message %.*s %.*s\n", (int)topic, (char *)buffer + 2, (int)(length - topic - 2), (char *)buffer + 2 + topic);
  }
  length = HEADER;
  send_packet(0xe0);
  close(server);
  return 0;
}
