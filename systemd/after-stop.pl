#!/usr/bin/perl
# After an agent has ended (ExecStopPost= of its unit, the same user and control group): ends what it left behind, qemu-img for
# example when it was killed. Commands stay, each with its shim: the next agent takes them up.
use strict;

# The unit's own group: of systemd's hierarchy, or of the only one there is.
open my $f, '<', '/proc/self/cgroup' or exit;
my ($path, $root) = (undef, '');
while (<$f>) {
  if (/^\d+:name=systemd:(.*)$/) { ($path, $root) = ($1, '/sys/fs/cgroup/systemd') }
  elsif (/^0::(.*)$/ && $root ne '/sys/fs/cgroup/systemd') { ($path, $root) = ($1, '/sys/fs/cgroup') }
}
exit if !defined $path || $path !~ m{\.service(?:/|$)}; # started by hand: the group is not ours alone

sub slurp { local $/; open my $h, '<', $_[0] or return ''; <$h> // '' }
my %tried;
sub left { # processes of the group that belong to no shim
  my %parent = map { my ($state, $of) = (split ' ', slurp("/proc/$_/stat") =~ s/^.*\) //sr); $state && $state !~ /[ZX]/ ? ($_ => $of) : () }
    split ' ', slurp("$root$path/cgroup.procs");
  my %kept = ($$ => 1);
  for (keys %parent) { $kept{$_} = 1 if (split /\0/, slurp("/proc/$_/cmdline"))[1] =~ m{/shim\.pl$} }
  my $more = 1;
  while ($more) { # what a shim started stays below it: it is their subreaper
    $more = 0;
    for (keys %parent) { $kept{$_} = $more = 1 if !$kept{$_} && $kept{$parent{$_}} && $parent{$_} != $$ }
  }
  grep { !$kept{$_} } keys %parent;
}
for my $signal ('TERM', 'KILL') {
  for (1 .. 50) {
    my @left = left() or exit;
    # Listed a moment ago, in a group that only takes in children of its own: no stranger has such a pid so soon.
    kill $signal, grep { !$tried{"$signal $_"}++ } @left;
    kill 'CONT', @left if $signal eq 'TERM';
    select undef, undef, undef, 0.1;
  }
}
print STDERR "<4>vmspool: these processes of the agent cannot be ended: @{[left()]}\n" if left();
