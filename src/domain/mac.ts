import { createHash } from 'node:crypto'

/** QEMU's own prefix, in which nobody else gives out addresses. */
const PREFIX = '52:54:00'

/**
 * The MAC address of a VM's card: from the VM's uuid and the card's place, so that a VM that is made again keeps its address (and its lease). Three
 * bytes are few: `taken` has the addresses that other cards of this VM have.
 */
export function macOf(uuid: string, index: number, taken: ReadonlySet<string> = new Set()): string {
  for (let again = 0; ; again++) {
    const hex = createHash('sha256').update(`${uuid}/${index}/${again}`).digest('hex')
    const mac = `${PREFIX}:${hex.slice(0, 2)}:${hex.slice(2, 4)}:${hex.slice(4, 6)}`
    if (!taken.has(mac)) return mac
  }
}
