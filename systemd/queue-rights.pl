#!/usr/bin/perl
# Before an agent starts (ExecStartPre=+ of its unit, outside of its sandbox): makes the folders of a new spool whose group is not the
# agent's own. The agent cannot: RestrictSUIDSGID= keeps it from setting the bit by which a folder hands its group on.
#
#   queue/    3730: the group vmspool-submit may drop; nobody may list, or remove what others dropped
#   control/  3770: and leave requests, such as to cancel a job of one's own
#   output/   2755: what the agent writes there belongs to that group, which may read it (UMask=0027)
#   owners/   2755: and see whether an agent lives
#
# A folder that is there stays as it is. All of it happens as the user that owns the spool, so a link that an agent was made to put
# there leads nowhere the agent could not go itself.
use strict;

my $group = getgrnam 'vmspool-submit';
exit unless defined $group; # not installed: the agent makes folders that everybody may use
my ($state) = split /:/, $ENV{STATE_DIRECTORY} // '';
exit if !$state || !-d $state || -l $state;
my ($uid, $gid) = (lstat _)[4, 5];

if ($> == 0 && $uid != 0) {
  $) = "$gid $group";
  $( = $gid;
  ($<, $>) = ($uid, $uid);
  die "<3>vmspool: cannot become uid $uid\n" if $> != $uid || $< != $uid;
}

umask 0;
my @folders = (
  ['queue', 03730], ['control', 03770],
  ['owners', 02755], ['output', 02755],
  map { ["output/$_", 02755] } qw(.work .old .daemon vms jobs superseded),
);
for (@folders) {
  my ($name, $mode) = @$_;
  my $path = "$state/$name";
  next if -e $path || -l $path;
  # Closed until it has its group and mode.
  if (mkdir($path, 0700) && chown(-1, $group, $path) && chmod($mode, $path)) { next }
  print STDERR "<4>vmspool: $path cannot be made for the group vmspool-submit: $!\n";
}
