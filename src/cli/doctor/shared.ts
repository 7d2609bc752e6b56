/** A spool that several hosts work: what cannot be seen from the mount alone. */
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Place } from '../../client/place.ts'
import type { Lease } from '../../spool/index.ts'
import { type Finding, fail, warn } from './types.ts'

export async function checkShared(place: Place): Promise<Finding[]> {
  const exported = exportedAsync(await readFile('/var/lib/nfs/etab', 'utf8').catch(() => ''), place.layout.root)
  return [...namesakes(await leasesOf(place)), ...(exported ? [exported] : [])]
}

async function leasesOf(place: Place): Promise<Lease[]> {
  const { readJson } = await import('../../client/read-json.ts')
  const names = await readdir(place.layout.owners).catch((): string[] => [])
  const leases = await Promise.all(
    names
      .filter((n) => n.endsWith('.json') && !n.startsWith('.'))
      .map((n) => readJson<Lease>(join(place.layout.owners, n))),
  )
  return leases.filter((l) => l !== undefined)
}

/** Two kernels of one host name. A host that was booted anew may have left a lease behind; that one is soon reaped. */
export function namesakes(leases: readonly Lease[]): Finding[] {
  const boots = new Map<string, Set<string>>()
  for (const l of leases) boots.set(l.host, (boots.get(l.host) ?? new Set()).add(l.boot_id))
  return [...boots].flatMap(([host, ids]) =>
    ids.size < 2
      ? []
      : warn(
          'host names',
          `Agents of ${ids.size} different boots call their host "${host}". If the host was booted anew just now, this passes; if these are two hosts, an NFS server takes them for one client and grants both the same lock, and nobody can tell whose job is whose.`,
          'Give every host a host name of its own: hostnamectl set-hostname NAME. (Cloned VMs often share one.)',
        ),
  )
}

/** On the file server itself: nfs(5) exports as exportfs keeps them, `<path>\t<client>(<options>)`. */
export function exportedAsync(etab: string, root: string): Finding | undefined {
  for (const line of etab.split('\n')) {
    const [path, clients] = line.split('\t')
    if (!path || !clients || !(root === path || root.startsWith(`${path.replace(/\/$/, '')}/`))) continue
    if (!/[(,]async[,)]/.test(clients)) continue
    return fail(
      'nfs export',
      `${path} is exported with async: the server says that a job is on disk when it is not, so a crash of the server loses jobs that were accepted.`,
      `Export it with sync (the default): take async out of /etc/exports, then exportfs -ra.`,
    )
  }
  return undefined
}
