#!/usr/bin/perl
# Becomes a program that can talk to systemd without any module: Node has no datagram sockets of the Unix kind.
#
#   perl notify-exec.pl PROGRAM [ARG]…      started by bin/vmspool, for `vmspool agent` under systemd
#
# NOTIFY_FD: a socket connected to $NOTIFY_SOCKET (sd_notify(3)); what is written to it is one message. The process stays the same
# one, so the unit's NotifyAccess=main accepts it.
# JOURNAL_FD: a socket connected to journald, where standard output leads to the journal (sd-daemon(3)): lines can have fields.
# Both never block. A program that is not told of a socket goes without.
use strict;

my ($AF_UNIX, $SOCK_DGRAM, $F_SETFD, $F_SETFL, $O_NONBLOCK) = (1, 2, 2, 4, 04000);

my @open; # until exec
sub connected {
  my $path = shift;
  $path =~ s/^@/\0/; # an abstract name
  socket(my $s, $AF_UNIX, $SOCK_DGRAM, 0) or return;
  connect($s, pack 'S a*', $AF_UNIX, $path =~ /^\0/ ? $path : "$path\0") or return;
  fcntl($s, $F_SETFL, $O_NONBLOCK) or return;
  fcntl($s, $F_SETFD, 0) or return; # Node closes it again for its own children
  push @open, $s;
  fileno $s;
}

delete @ENV{qw(NOTIFY_FD JOURNAL_FD)};
if (defined(my $path = $ENV{NOTIFY_SOCKET})) {
  my $fd = connected($path);
  if (defined $fd) { $ENV{NOTIFY_FD} = $fd }
  else { print STDERR "<4>vmspool: systemd cannot be told anything: $path: $!\n" }
}
if (($ENV{JOURNAL_STREAM} // '') =~ /^(\d+):(\d+)$/) {
  my ($dev, $ino) = (stat STDOUT)[0, 1];
  my $fd = $dev == $1 && $ino == $2 ? connected('/run/systemd/journal/socket') : undef;
  $ENV{JOURNAL_FD} = $fd if defined $fd;
}
exec { $ARGV[0] } @ARGV or print STDERR "<3>vmspool: $ARGV[0] cannot be started: $!\n";
exit 78;
