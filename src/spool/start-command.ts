/** How the agent of a spool is started, for those who find none: by its unit where there is one, else by hand. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'

/** Where the units look for spools. */
const installedRoot = '/var/lib/vmspool'
const unitFolders = [
  '/etc/systemd/system',
  '/usr/local/lib/systemd/system',
  '/usr/lib/systemd/system',
  '/lib/systemd/system',
]

/**
 * By hand it would run as whoever reads this: root, say, in a spool that belongs to the service's user.
 * @param o.folders where units lie; undefined where systemd does not run
 */
export function startCommand(
  l: { root: string; instance: string },
  o: { folders?: readonly string[] } = running(),
): string {
  const unit = l.instance === 'default' ? 'agent' : `agent@${l.instance}`
  const file = l.instance === 'default' ? 'agent.service' : 'agent@.service'
  const there = l.root === installedRoot && o.folders?.some((dir) => existsSync(join(dir, file)))
  return there ? `systemctl start ${unit}` : `vmspool agent ${l.instance} --root ${l.root}`
}

function running(): { folders?: readonly string[] } {
  return existsSync('/run/systemd/system') ? { folders: unitFolders } : {}
}
