import { LABEL } from './kinds/parts.ts'

const HOST_NAME = new RegExp(`^${LABEL}(?:\\.${LABEL})*$`)

/**
 * What is wrong with the name of a new VM, as the end of a sentence (contracts B1: a host name of 3 to 63 characters); undefined: nothing. The registry lies beside the
 * folders of the VMs, so none of them is called like it.
 */
export function vmNameProblem(name: string): string | undefined {
  if (name.length >= 3 && name.length <= 63 && HOST_NAME.test(name) && !/^vms(?:\.|$)/i.test(name)) return undefined
  return `is ${JSON.stringify(name)}; the name of a new VM is a host name of 3 to 63 characters: letters, digits and "-", parts joined by "." (and not "vms").`
}
