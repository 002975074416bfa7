"""An injection that does nothing: tests derive from it and write only what they are about."""


class Idle:
    """The members of the Injection protocol that an injection without an effect has."""

    order = ""
    sites = ()

    def models(self):
        return []

    def to(self, device):
        return self

    def check_run(self, prompts):
        pass

    def edit_text(self, call, text):
        return text

    def terms(self, call):
        return []
