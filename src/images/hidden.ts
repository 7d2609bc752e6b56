import { readFile } from 'node:fs/promises'
import { dirname } from 'node:path'

/**
 * What systemd puts over folders that a unit may not see (systemd.exec(5)): InaccessiblePaths= and ProtectHome=yes an empty folder,
 * PrivateTmp= one of the unit's own, ProtectHome=tmpfs an empty file system; and our units bind `private-tmp` over /tmp and /var/tmp.
 */
const COVER = /\/inaccessible\/dir$|\/systemd-private-|\/private-tmp$/
const HOMES = new Set(['/home', '/root', '/run/user'])

/** Where `path` is covered, by /proc/self/mountinfo (proc(5)): the mount point, or undefined when it lies where it seems to lie. */
export function coveredBy(path: string, mountinfo: string): string | undefined {
  let over: { point: string; root: string; type: string } | undefined
  for (const line of mountinfo.split('\n')) {
    const fields = line.split(' ')
    const [, , , root, point] = fields.map((f) => f.replace(/\\([0-7]{3})/g, (_, n) => oct(n)))
    if (root === undefined || point === undefined) continue
    const above = point === '/' || path === point || path.startsWith(`${point}/`)
    if (above && (over === undefined || point.length >= over.point.length))
      over = { point, root, type: fields[fields.indexOf('-') + 1] ?? '' }
  }
  if (over === undefined) return undefined
  return COVER.test(over.root) || (HOMES.has(over.point) && over.type === 'tmpfs') ? over.point : undefined
}

function oct(digits: string): string {
  return String.fromCharCode(Number.parseInt(digits, 8))
}

/** The unit that hides a path from this process, and the mount point that it has put over it; undefined when it lies where it seems to lie. */
export async function hiddenBy(path: string): Promise<{ unit: string; point: string } | undefined> {
  const read = (file: string) => readFile(file, 'utf8').catch(() => '')
  const point = coveredBy(path, await read('/proc/self/mountinfo'))
  if (point === undefined) return undefined
  return { unit: /\/([^/\n]+\.service)/.exec(await read('/proc/self/cgroup'))?.[1] ?? 'agent@NAME.service', point }
}

/** What to do when the agent's unit hides a file from it; undefined when it does not. */
export async function hiddenHint(path: string): Promise<string | undefined> {
  const by = await hiddenBy(path)
  return (
    by &&
    `The unit ${by.unit} hides ${by.point} from the agent. Open the folder to it with \`systemctl edit ${by.unit}\`, lines "[Service]" and ` +
      `"BindReadOnlyPaths=${dirname(path)}", and restart it; or put exports elsewhere, below /srv for example.`
  )
}
